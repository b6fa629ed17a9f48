"""Two processes end with the detector and the numbers of one."""

import warnings

import lightning
import pytest
import torch
from torch import nn

from gmm_torch import FailureDetector
from gmm_torch.lightning import FailureDetection
from tests.gmm_torch.lightning.conftest import SMALL, UserModule, images, loader, noise


class Counting(nn.Module):
    """Passes inputs on, and has statistics of training as batch normalisation does, which differ by process."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.seen += x.sum()
        return x


class Alike(lightning.Callback):
    """Fails, in each process, where the processes have other classifiers or detectors."""

    def __init__(self, detection):
        self.detection = detection

    def on_train_end(self, trainer, pl_module):
        score = self.detection.detector(images(60, 5).tensors[0]).score
        for value in (pl_module.net[0].seen, score):
            assert all(torch.equal(each, value) for each in pl_module.all_gather(value).view(-1, *value.shape))


class Still(UserModule):
    """One that does not learn, so that processes differ in nothing but their share of the inputs."""

    def __init__(self):
        super().__init__(lr=0.0)
        self.net = nn.Sequential(Counting(), *self.net)
        with torch.no_grad():
            self.net[-1].bias -= self.net(images(200, 9).tensors[0]).mean(0)


def fit(trainer, folder, **options):
    """Odd numbers of inputs, of which a sampler for two processes would repeat some."""
    callback = FailureDetection(2, ood={"noise": noise()}, classifier="net", every_n_epochs=1, detector=SMALL)
    module = Still()
    found = trainer(callback, Alike(callback), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found.fit(module, loader(301, 1, shuffle=True), loader(151, 2))
    file = FailureDetector.load(folder / "detector.safetensors", module.net)
    return file, {name: float(value) for name, value in found.callback_metrics.items() if name.startswith("detection/")}


def test_two_processes_end_with_the_detector_and_the_numbers_of_one(trainer, tmp_path):
    (one, values), (two, of_two) = (
        fit(trainer, tmp_path, **options) for options in ({}, {"devices": 2, "strategy": "ddp_spawn"})
    )
    assert (two.n_fitted, len(two.calibration.scores)) == (one.n_fitted, len(one.calibration.scores)) == (301, 51)
    x = images(60, 5).tensors[0]
    # a sum of two shares has other last digits, which move a rank now and then
    torch.testing.assert_close(two(x).score, one(x).score, rtol=1e-2, atol=1e-2)
    assert (two(x).p_value - one(x).p_value).abs().max() <= 1.01 / 52
    assert of_two.keys() == values.keys()
    for name, value in values.items():
        assert of_two[name] == pytest.approx(value, abs=0.03), name
    assert of_two["detection/val/noise/n"] == 50
    assert of_two["detection/val/errors/n"] == values["detection/val/errors/n"] > 0
