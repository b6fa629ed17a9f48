from functools import partial

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gmm_torch import GaussianMixture
from trainers.classifiers.small_cnn import SmallCNN
from trainers.modules.classifier_module import ClassifierModule
from trainers.modules.likelihood_module import LikelihoodModule
from trainers.modules.likelihood_term import MODES, LikelihoodTerm

OPTIONS = {"n_components": 3, "window": 300}


class Network(nn.Module):
    """Its parameters are the features; an input is the number of its row."""

    def __init__(self, n=64, width=3):
        super().__init__()
        torch.manual_seed(0)
        centres = torch.tensor([[0.0, 0, 0], [3, 0, 1], [0, 3, 1]])[torch.arange(n) % 3]
        self.features = nn.Parameter(centres + 0.5 * torch.randn(n, width))
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        return self.head(self.features[x[:, 0].long() % len(self.features)])


def started(mode, scale=1.0, **options):
    """A term whose mixture knows the network's features."""
    network = Network()
    with torch.no_grad():
        network.features.mul_(scale)
    term = LikelihoodTerm(1.0, mode, **{**OPTIONS, **options})
    term.prepare(network)
    term.listen(network)
    torch.manual_seed(1)
    for _ in range(5):
        network(torch.arange(64.0)[:, None])
        nothing = term()
        assert nothing == 0  # no mixture yet
        if mode == "gradient":
            nothing.backward()  # every parameter takes part, as distributed training asks
            assert all(parameter.grad is not None for parameter in term.parameters())
    term.renew()
    return network, term


def value(network, term):
    torch.manual_seed(2)
    network(torch.arange(64.0)[:, None])
    return term()


@pytest.mark.parametrize("mode", MODES)
def test_its_gradient_is_that_of_its_value(mode):
    network, term = started(mode, covariance_type="spherical")
    # Stepwise EM would move the mixture between two evaluations.
    term.online.update = lambda x: None
    loss = value(network, term)
    loss.backward()
    gradient = network.features.grad.double()
    direction = torch.randn(network.features.shape, generator=torch.Generator().manual_seed(3))
    step = 1e-2
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            network.features.add_(sign * step * direction)
            ends.append(value(network, term).double())
            network.features.sub_(sign * step * direction)
    numeric = (ends[0] - ends[1]) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(numeric), rel=0.03, abs=1e-4)
    assert gradient.norm() > 1e-3
    moved = [p.grad is not None and bool(p.grad.any()) for p in term.parameters()]
    assert all(moved) if mode == "gradient" else not moved


@pytest.mark.parametrize("mode", MODES)
def test_shrinking_the_features_gains_nothing(mode):
    values = [float(value(*started(mode, scale)).detach()) for scale in (1.0, 0.1)]
    assert values[1] == pytest.approx(values[0], rel=0.02)


def test_its_value_is_the_density_of_standardised_features_with_noise():
    network, term = started("online")
    network.features.requires_grad_(False)
    z = network.features
    loss = value(network, term)
    torch.manual_seed(2)
    z = (z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt()
    z = z + 0.1 * torch.randn_like(z)
    torch.testing.assert_close(loss, -term.online.mixture.log_prob(z).mean() / 3)


@pytest.fixture(scope="module")
def digits():
    bunch = load_digits()
    images, labels = torch.tensor(bunch.images).float().unsqueeze(1) / 16, torch.tensor(bunch.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))  # the file is ordered by writer
    images, labels = images[order], labels[order]
    parts = [TensorDataset(images[a:b], labels[a:b]) for a, b in ((0, 512), (512, 700))]
    return [DataLoader(part, batch_size=64) for part in parts]


def module(mode, weight=0.3):
    torch.manual_seed(0)
    term = None if mode is None else LikelihoodTerm(weight, mode, covariance_type="diag", reg_covar=0.1, **OPTIONS)
    network, optimizer = SmallCNN(10, in_channels=1, width=8), partial(torch.optim.AdamW, lr=0.02)
    if term is None:
        return ClassifierModule(network, 10, optimizer)
    return LikelihoodModule(network, 10, optimizer, term=term)


def trainer(folder, max_epochs, *callbacks):
    return lightning.Trainer(
        accelerator="cpu", max_epochs=max_epochs, callbacks=list(callbacks), logger=False, default_root_dir=folder,
        enable_checkpointing=bool(callbacks), enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


@torch.no_grad()
def density(classifier, loader):
    """Mean log-density a dimension of standardised features under a mixture fitted to them."""
    z = classifier.eval().pool(classifier.features(loader.dataset.tensors[0]))
    z = (z - z.mean(0)) / z.std(0).clamp_min(1e-6)
    return GaussianMixture(3, 8, "diag").fit(z, reg_covar=0.1).score(z) / 8


def test_a_training_with_it_gathers_the_features_and_learns_the_classes(digits, tmp_path):
    found = {}
    for mode in (None, *MODES):
        classifier = module(mode, weight=1.0)
        app = trainer(tmp_path, 4)
        app.fit(classifier, *digits)
        assert app.callback_metrics["val/accuracy"] > 0.3  # of ten classes, after 32 steps
        found[mode] = density(classifier.classifier, digits[0])
        assert not classifier.classifier._forward_hooks
    assert all(found[mode] > found[None] + 0.02 for mode in MODES), found


@pytest.mark.parametrize("mode", ["online", "gradient"])
def test_a_resumed_training_goes_on_with_the_mixture(mode, digits, tmp_path):
    keeper = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    whole = module(mode)
    trainer(tmp_path, 2, keeper).fit(whole, *digits)
    resumed = module(mode)
    again = trainer(tmp_path, 2)
    again.fit(resumed, *digits, ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=True)
    assert resumed.term.online.n_updates == whole.term.online.n_updates == 16
    assert torch.isfinite(again.callback_metrics["train/likelihood_term"])
    assert again.callback_metrics["train/likelihood_term"] != 0


@pytest.mark.parametrize(
    ("arguments", "message"), [((-1.0,), "weight: expected"), ((1.0, "magic"), "mode: expected one of online")]
)
def test_bad_options_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LikelihoodTerm(*arguments)


def test_what_it_needs_is_said():
    with pytest.raises(ValueError, match="expected a classifier with a linear layer"):
        LikelihoodTerm(1.0).prepare(nn.Flatten())
    with pytest.raises(RuntimeError, match=r"expected listen\(classifier\)"):
        LikelihoodTerm(1.0)()
