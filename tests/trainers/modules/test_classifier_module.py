from functools import partial

import lightning
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from tests.configuration import files_read_once
from trainers.classifiers.build import build_classifier
from trainers.classifiers.small_cnn import SmallCNN
from trainers.main import CONF
from trainers.modules.classifier_module import ClassifierModule


def _names(group):
    return sorted(path.stem for path in (CONF / group).glob("[!_]*.yaml"))


def _compose(*overrides):
    with initialize_config_dir(str(CONF), version_base=None), files_read_once():
        return compose(overrides=list(overrides))


@pytest.fixture(scope="module")
def digits():
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    # the file is ordered by writer
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order], torch.tensor(bunch.target, dtype=torch.int64)[order]


def _loaders(digits):
    images, labels = digits
    parts = [TensorDataset(images[i:j], labels[i:j]) for i, j in ((0, 300), (300, 500), (500, 1797))]
    return [DataLoader(part, batch_size=32, shuffle=part is parts[0]) for part in parts]


def _module(**options):
    defaults = {"num_classes": 10, "optimizer": partial(torch.optim.AdamW, lr=0.01)}
    return ClassifierModule(SmallCNN(10, in_channels=1, width=8), **(defaults | options))


def _trainer(folder, max_epochs, **options):
    bar = "trainer.enable_progress_bar=false"
    cfg = _compose("+trainer=cpu", "+callbacks=default", f"trainer.max_epochs={max_epochs}", bar)
    callbacks = [instantiate(each) for each in cfg.callbacks.values()]
    return instantiate(cfg.trainer, **{"default_root_dir": str(folder), "callbacks": callbacks, **options})


def _learning(optimizer="adamw"):
    """What the configs say of optimizer and schedule."""
    cfg = _compose(f"+optimizer={optimizer}", "+training=supervised").training
    return {name: instantiate(cfg[name]) for name in ("optimizer", "scheduler")}


def test_few_labels_suffice_for_digits(digits, tmp_path):
    train, val, test = _loaders(digits)
    lightning.seed_everything(0, verbose=False)
    cfg = _compose("+classifier=small_cnn", "+data.mean=[0.3]", "+data.std=[0.38]")
    module = ClassifierModule(build_classifier(cfg.classifier, 10, (1, 8, 8)), 10, **_learning())
    trainer = _trainer(tmp_path, 9)
    trainer.fit(module, train, val)
    (metrics,) = trainer.test(module, test, verbose=False)
    assert metrics["test/accuracy"] >= 0.95
    assert set(metrics) == {"test/loss", "test/accuracy", "test/calibration_error"}
    assert 0 < metrics["test/calibration_error"] < 0.2


def test_logged_metrics_are_those_of_the_whole_set(digits, tmp_path):
    _, _, test = _loaders(digits)
    module = _module()
    (metrics,) = _trainer(tmp_path, 1).test(module, test, verbose=False)
    images, labels = test.dataset.tensors
    with torch.no_grad():
        logits = module.eval()(images)
    assert metrics["test/accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    assert metrics["test/loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_the_best_and_the_last_are_kept_and_resuming_goes_on_with_the_next_epoch(digits, tmp_path):
    train, val, _ = _loaders(digits)
    first = _module(**_learning())
    _trainer(tmp_path, 2).fit(first, train, val)
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]

    seen = []

    class Epochs(ClassifierModule):
        def on_train_epoch_start(self):
            seen.append((self.current_epoch, self.trainer.global_step))

    resumed = Epochs(SmallCNN(10, in_channels=1, width=8), 10, **_learning())
    trainer = _trainer(tmp_path, 4)
    trainer.fit(resumed, train, val, ckpt_path=folder / "last.ckpt", weights_only=True)
    assert seen == [(2, 2 * len(train)), (3, 3 * len(train))]
    assert trainer.current_epoch == 4


def test_the_best_checkpoint_is_loadable_as_a_classifier(digits, tmp_path):
    train, val, _ = _loaders(digits)
    cfg = _compose("+classifier=small_cnn", "+data.mean=[0.3]", "+data.std=[0.38]").classifier
    module = _module()
    module.classifier = build_classifier(cfg, 10, (1, 8, 8))
    trainer = _trainer(tmp_path, 1)
    trainer.fit(module, train, val)
    cfg.checkpoint = trainer.checkpoint_callback.best_model_path
    loaded = build_classifier(cfg, 10, (1, 8, 8))
    for key, value in module.classifier.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key]), key


def test_a_loss_that_is_not_finite_stops_the_training_before_a_checkpoint(digits, tmp_path):
    images, labels = digits
    broken = images.clone()
    broken[40] = float("nan")
    train = DataLoader(TensorDataset(broken[:96], labels[:96]), batch_size=32)
    val = DataLoader(TensorDataset(images[:32], labels[:32]), batch_size=32)
    with pytest.raises(
        FloatingPointError, match=r"expected a finite number; got none \(epoch 0, at or before batch 1\).*lr"
    ):
        _trainer(tmp_path, 1).fit(_module(), train, val)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_label_smoothing_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"label_smoothing: expected a share in \[0, 1\)"):
        _module(label_smoothing=1.0)


def test_a_schedule_of_an_endless_training_is_refused(digits, tmp_path):
    train, val, _ = _loaders(digits)
    module = _module(**_learning())
    with pytest.raises(ValueError, match=r"trainer\.max_epochs"):
        _trainer(tmp_path, -1, max_time={"seconds": 1}).fit(module, train, val)


@pytest.mark.parametrize("name", _names("optimizer"))
def test_every_optimizer_config_takes_a_step(name, digits, tmp_path):
    train, val, _ = _loaders(digits)
    module = _module(**_learning(name))
    before = module.classifier.linear.weight.clone()
    _trainer(tmp_path, 1, fast_dev_run=True).fit(module, train, val)
    assert not torch.equal(module.classifier.linear.weight, before)


@pytest.mark.parametrize("name", _names("trainer"))
def test_every_trainer_config_composes(name):
    cfg = _compose(f"+trainer={name}").trainer
    assert cfg["_target_"] == "lightning.Trainer"
    if cfg.accelerator == "gpu" and not torch.cuda.is_available():
        pytest.skip("this Trainer needs a GPU")
    if cfg.devices == -1 and torch.cuda.device_count() < 1:
        pytest.skip("this Trainer needs GPUs")
    trainer = instantiate(cfg)
    assert trainer.max_epochs == cfg.max_epochs
    assert trainer.num_devices == cfg.devices


def test_the_trainer_of_a_module_without_validation_has_no_checkpoints(tmp_path):
    trainer = _trainer(tmp_path, 1, callbacks=[], enable_checkpointing=False)
    assert trainer.checkpoint_callback is None
