import copy
from functools import partial

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers.logger import DummyLogger
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.functional.classification import binary_auroc

from gmm_torch import GaussianMixture
from gmm_torch.detector import FeatureExtractor
from gmm_torch.lightning.online_mixture import OnlineMixtureMonitor
from tests.processes import run_trainers
from trainers.classifiers.small_cnn import SmallCNN
from trainers.modules.classifier_module import ClassifierModule

OPTIONS = {"n_components": 3, "covariance_type": "diag", "window": 300}


@pytest.fixture(scope="module", name="digits")
def load():
    return shuffled_digits()


def shuffled_digits():
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order], torch.tensor(bunch.target)[order]


def loaders(digits):
    images, labels = digits
    parts = [TensorDataset(images[a:b], labels[a:b]) for a, b in ((0, 320), (320, 720))]
    return [DataLoader(part, batch_size=32, shuffle=False) for part in parts]


def module(seed=0):
    torch.manual_seed(seed)
    return ClassifierModule(SmallCNN(10, in_channels=1, width=8), 10, partial(torch.optim.AdamW, lr=0.01))


def trainer(folder, max_epochs, *callbacks, logger=False, **options):
    return lightning.Trainer(
        accelerator="cpu", max_epochs=max_epochs, callbacks=list(callbacks), logger=logger, default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks), **options,
    )  # fmt: skip


def eval_features(classifier, images):
    with torch.no_grad():
        outputs = FeatureExtractor(classifier)(images)
    return outputs.own_logits, next(iter(outputs.layers.values()))[:, 0]


def test_what_it_logs_and_draws_is_what_the_mixture_says_of_the_validation_images(digits, tmp_path):
    train, val = loaders(digits)
    images, labels = val.dataset.tensors
    monitor, classifier = OnlineMixtureMonitor(**OPTIONS, n_images=5), module()
    app = trainer(tmp_path, 3, monitor)
    app.fit(classifier, train, val)
    assert monitor.online.n_updates == 3 * len(train)
    logits, features = eval_features(classifier.classifier, images)
    score = monitor.online.mixture.log_prob(features)
    logged = app.callback_metrics
    assert logged["mixture/log_likelihood"] == pytest.approx(score.mean().item(), rel=1e-4)
    right = (logits.argmax(1) == labels).long()
    ranks = score.argsort().argsort().double() / len(score)
    assert 0 < right.float().mean() < 1
    assert logged["mixture/error_auroc"] == pytest.approx(binary_auroc(ranks, right).item(), abs=1e-3)
    assert logged["mixture/drift"] > 0
    assert sorted(path.name for path in (tmp_path / "least_likely").iterdir()) == [
        "0000010.png", "0000020.png", "0000030.png",
    ]  # fmt: skip
    assert not classifier.classifier._forward_hooks  # the hook is gone


def test_no_value_of_an_earlier_validation_stands_where_all_predictions_are_wrong(digits, tmp_path):
    train, val = loaders(digits)
    images, labels = val.dataset.tensors
    labels, found = labels.clone(), []

    class Relabelled(lightning.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            found.append(float(trainer.callback_metrics["mixture/error_auroc"]))
            labels.fill_(1)

    classifier = module()
    head = [each for each in classifier.classifier.modules() if isinstance(each, torch.nn.Linear)][-1]
    with torch.no_grad():
        head.bias[0] = 1e3  # it says 0 of everything
    monitor = OnlineMixtureMonitor(**OPTIONS, n_images=0)
    trainer(tmp_path, 2, monitor, Relabelled()).fit(classifier, train, DataLoader(TensorDataset(images, labels), 32))
    assert 0 <= found[0] <= 1
    assert found[1] != found[1]


def test_a_logger_with_a_board_gets_the_least_likely_images(digits, tmp_path):
    seen = []

    class Board(DummyLogger):
        def add_image(self, tag, image, step):
            seen.append((tag, image, step))

        @property
        def experiment(self):
            return self

        def log_metrics(self, metrics, step=None):
            seen.extend(name for name in metrics if name.startswith("mixture/"))

    train, val = loaders(digits)
    monitor, classifier = OnlineMixtureMonitor(**OPTIONS, n_images=1), module()
    trainer(tmp_path, 1, monitor, logger=Board()).fit(classifier, train, val)
    images = val.dataset.tensors[0]
    _, features = eval_features(classifier.classifier, images)
    unlikeliest = images[monitor.online.mixture.log_prob(features).argmin()]
    ((tag, image, step),) = [each for each in seen if isinstance(each, tuple)]
    assert (tag, step) == ("mixture/least_likely", 10)
    assert torch.equal(image[:1, ::8, ::8], unlikeliest)  # shown eight times as large
    assert "mixture/log_likelihood" in seen
    assert not (tmp_path / "least_likely").exists()


def test_the_training_is_what_it_is_without(digits, tmp_path):
    train, val = loaders(digits)
    with_it, without = module(), module()
    trainer(tmp_path, 2, OnlineMixtureMonitor(**OPTIONS)).fit(with_it, train, val)
    trainer(tmp_path, 2).fit(without, train, val)
    for name, value in without.classifier.state_dict().items():
        assert torch.equal(value, with_it.classifier.state_dict()[name]), name


def test_a_resumed_training_ends_with_the_same_mixture_bit_for_bit(digits, tmp_path):
    train, val = loaders(digits)
    whole = OnlineMixtureMonitor(**OPTIONS, every=3)  # so that steps are pending where it was cut
    keeper = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    first = trainer(tmp_path, 3, whole, keeper)
    first.fit(module(), train, val)
    resumed = OnlineMixtureMonitor(**OPTIONS, every=3)
    again = trainer(tmp_path, 3, resumed)
    again.fit(module(seed=1), train, val, ckpt_path=tmp_path / "epoch=1.ckpt", weights_only=True)
    assert resumed.online.n_updates == whole.online.n_updates == 30
    states = whole.online.mixture.state_dict(), resumed.online.mixture.state_dict()
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name]), name
    for name, value in first.callback_metrics.items():
        if name.startswith("mixture/"):
            assert torch.equal(value, again.callback_metrics[name]), name


class Data(lightning.LightningDataModule):
    """One of the application's, which keeps images for the mixture."""

    def __init__(self, train, val):
        super().__init__()
        self.train_dataloader, self.val_dataloader, self.mixture_dataloader = (
            (lambda: train),
            (lambda: val),
            (lambda: val),
        )


@pytest.mark.parametrize("keeps", [False, True])
def test_exact_passes_leave_a_mixture_as_good_as_one_fitted_afterwards(keeps, digits, tmp_path):
    train, val = loaders(digits)
    monitor, classifier = OnlineMixtureMonitor(**OPTIONS, exact_passes=100), module()
    data = {"datamodule": Data(train, val)} if keeps else {"train_dataloaders": train, "val_dataloaders": val}
    trainer(tmp_path, 3, monitor).fit(classifier, **data)
    _, features = eval_features(classifier.classifier, (val if keeps else train).dataset.tensors[0])
    afterwards = GaussianMixture(3, 8, "diag").fit(features, reg_covar=1e-2)
    assert monitor.online.mixture.lower_bound > afterwards.lower_bound - 1e-6
    assert monitor.online.mixture.score(features) > afterwards.score(features) - 0.1
    assert classifier.classifier.training == classifier.training


def follow(folder):
    train, val = loaders(shuffled_digits())
    app = trainer(folder, 2, Handed(folder), OnlineMixtureMonitor(**OPTIONS), strategy="ddp", devices=2)
    app.fit(module(), train, val)


def test_two_processes_follow_the_points_of_both(tmp_path):
    run_trainers(follow, (tmp_path,))
    states = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    # 150 points of each were renewed after the first epoch, and each took 160 more
    assert states[0]["follower"]["n_seen"] == states[1]["follower"]["n_seen"] == 300 + 320
    for name, value in states[0]["mixture"].items():
        assert torch.equal(value, states[1]["mixture"][name]), name
    assert not torch.equal(states[0]["recent"], states[1]["recent"])


class Handed(lightning.Callback):
    """Writes what each process has before its last renewal."""

    def __init__(self, folder):
        self.folder = folder

    def on_validation_start(self, trainer, pl_module):
        (monitor,) = [each for each in trainer.callbacks if isinstance(each, OnlineMixtureMonitor)]
        torch.save(copy.deepcopy(monitor.online.state_dict()), self.folder / f"{trainer.global_rank}.pt")


def test_what_it_can_not_watch_is_refused_in_words(digits, tmp_path):
    class Other(lightning.LightningModule):
        def configure_optimizers(self):
            return None

        def training_step(self, batch, batch_idx):
            return None

    with pytest.raises(AttributeError, match="no attribute 'classifier'"):
        trainer(tmp_path, 1, OnlineMixtureMonitor()).fit(Other(), loaders(digits)[0])
    with pytest.raises(ValueError, match="exact_passes: expected at least 0"):
        OnlineMixtureMonitor(exact_passes=-1)
