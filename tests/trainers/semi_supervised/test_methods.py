"""Every method under a Lightning Trainer, composed as the application composes it."""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig

from gmm_torch.lightning.online_mixture import OnlineMixtureMonitor
from tests.configuration import configure
from trainers.classifiers.build import build_classifier
from trainers.main import CONF
from trainers.modules.averaged_module import AveragedClassifierModule
from trainers.modules.classifier_module import ClassifierModule
from trainers.run.training import new_module

METHODS = sorted(path.stem for path in (CONF / "training").glob("[!_]*.yaml") if path.stem != "none")
SUPERVISED = ["adversarial", "likelihood", "supervised"]
AVERAGED = ["fixmatch", "mean_teacher"]


def compose(method: str, *overrides: str) -> DictConfig:
    return configure(
        f"training={method}", "data=digits", "data.n_labelled=50", "data.mixture_every=null", "data.batch_size=25",
        "+classifier.width=16",
        "trainer=cpu", "trainer.max_epochs=1", "trainer.enable_progress_bar=false", *overrides,
    )  # fmt: skip


def made(cfg: DictConfig) -> tuple[ClassifierModule, Any]:
    lightning.seed_everything(0, verbose=False)
    data = instantiate(cfg.data)
    classifier = build_classifier(cfg.classifier, data.num_classes, data.image_shape)
    return new_module(cfg.training, classifier, data.num_classes), data


def trainer(cfg: DictConfig, folder: Path, *callbacks: Callback) -> lightning.Trainer:
    configured = [instantiate(each) for each in cfg.callbacks.values()]
    return instantiate(cfg.trainer, default_root_dir=str(folder), callbacks=[*callbacks, *configured])


@pytest.mark.filterwarnings("error:.*infer the `batch_size`.*")
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_logs_the_accuracy_of_what_it_keeps(method, tmp_path):
    cfg = compose(method)
    module, data = made(cfg)
    before = {name: tensor.clone() for name, tensor in module.classifier.state_dict().items()}
    fitting = trainer(cfg, tmp_path)
    fitting.fit(module, datamodule=data)
    changed = [name for name, tensor in module.classifier.state_dict().items() if not torch.equal(tensor, before[name])]
    assert set(changed) >= {name for name, _ in module.classifier.named_parameters()}
    assert fitting.global_step == (2 if method in SUPERVISED else 17)  # 50 images by 25, or 1,229 by 75
    images = data.val_dataloader().dataset
    pictures, labels = torch.stack([image for image, _ in images]), torch.tensor([label for _, label in images])
    with torch.no_grad():
        accuracy = (module.classifier.eval()(pictures).argmax(1) == labels).float().mean().item()
    assert fitting.callback_metrics["val/accuracy"].item() == pytest.approx(accuracy)


class Weights(Callback):
    """What average and student are when training goes on."""

    def __init__(self) -> None:
        self.found: list[dict[str, torch.Tensor]] = []

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.found.append({name: tensor.clone() for name, tensor in pl_module.state_dict().items()})


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize("method", AVERAGED)
def test_resuming_goes_on_with_average_and_student(method, tmp_path):
    cfg = compose(method, "+trainer.limit_train_batches=4")
    module, data = made(cfg)
    trainer(cfg, tmp_path).fit(module, datamodule=data)
    left = module.state_dict()
    assert isinstance(module, AveragedClassifierModule)
    assert not torch.equal(left["classifier.network.linear.weight"], left["student_classifier.network.linear.weight"])

    cfg.trainer.max_epochs = 2
    weights = Weights()
    resumed, data = made(cfg)
    again = trainer(cfg, tmp_path, weights)
    again.fit(resumed, datamodule=data, ckpt_path=tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    for name, tensor in left.items():
        assert torch.equal(weights.found[0][name], tensor), name
    assert again.global_step == 8


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize("method", ["supervised", "mean_teacher"])
def test_steps_are_counted_across_epochs_and_go_on_in_the_middle_of_one(method, tmp_path):
    overrides = ["trainer=steps", "trainer.accelerator=cpu", "trainer.max_epochs=-1", "trainer.val_check_interval=3"]
    cfg = compose(method, *overrides, "trainer.max_steps=7")
    module, data = made(cfg)
    first = trainer(cfg, tmp_path)
    first.fit(module, datamodule=data)
    assert first.global_step == 7
    assert first.checkpoint_callback.best_model_path
    cfg.trainer.max_steps = 9
    resumed, data = made(cfg)
    again = trainer(cfg, tmp_path)
    again.fit(resumed, datamodule=data, ckpt_path=tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert again.global_step == 9
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 9


@pytest.mark.parametrize("method", ["fixmatch", "mean_teacher", "vat"])
def test_the_mixture_is_fitted_to_labelled_and_unlabelled_images_together(method):
    data = instantiate(compose(method).data)
    labelled, mixture = set(data.indices["train"].tolist()), set(data.indices["mixture"].tolist())
    assert len(labelled) == 50
    assert labelled < mixture
    assert mixture == set(data.unlabelled_indices.tolist())


@pytest.mark.parametrize("method", ["fixmatch", "vat"])
def test_the_online_mixture_refuses_batches_with_unlabelled_images_in_words(method, tmp_path):
    cfg = compose(method)
    module, data = made(cfg)
    with pytest.raises(ValueError, match=r"got labelled, unlabelled: set callbacks=default"):
        trainer(cfg, tmp_path, OnlineMixtureMonitor()).fit(module, datamodule=data)
