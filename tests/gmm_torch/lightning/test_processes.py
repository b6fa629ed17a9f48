"""Two processes end with the detector and the numbers of one."""

import warnings

import lightning
import pytest
import torch
from torch import nn

from gmm_torch import FailureDetector
from gmm_torch.lightning import FailureDetection
from tests.gmm_torch.lightning.conftest import SMALL, UserModule, images, loader, make_trainer, noise
from tests.processes import run_trainers


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


def fit(folder, **options):
    """Fit to odd numbers of inputs, of which a sampler for two processes would repeat some, and write what came out."""
    callback = FailureDetection(2, ood={"noise": noise()}, classifier="net", every_n_epochs=1, detector=SMALL)
    module = Still()
    found = make_trainer(folder, callback, Alike(callback), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found.fit(module, loader(301, 1, shuffle=True), loader(151, 2))
    if found.is_global_zero:
        detector = FailureDetector.load(folder / "detector.safetensors", module.net)
        verdict = detector(images(60, 5).tensors[0])
        counts = torch.tensor([detector.n_fitted, len(detector.calibration.scores)])
        values = {name: value for name, value in found.callback_metrics.items() if name.startswith("detection/")}
        found = {"counts": counts, "score": verdict.score, "p_value": verdict.p_value, "values": values}
        torch.save(found, folder / "found.pt")


def fit_as_one_of_two(folder):
    fit(folder, devices=2, strategy="ddp")


def test_two_processes_end_with_the_detector_and_the_numbers_of_one(tmp_path):
    fit(tmp_path / "one")
    run_trainers(fit_as_one_of_two, (tmp_path / "two",))
    one, two = (torch.load(tmp_path / name / "found.pt", weights_only=True) for name in ("one", "two"))
    assert two["counts"].tolist() == one["counts"].tolist() == [301, 51]
    # a sum of two shares has other last digits, which move a rank now and then
    torch.testing.assert_close(two["score"], one["score"], rtol=1e-2, atol=1e-2)
    assert (two["p_value"] - one["p_value"]).abs().max() <= 1.01 / 52
    values, of_two = ({name: float(value) for name, value in each["values"].items()} for each in (one, two))
    assert of_two.keys() == values.keys()
    for name, value in values.items():
        assert of_two[name] == pytest.approx(value, abs=0.03), name
    assert of_two["detection/val/noise/n"] == 50
    assert of_two["detection/val/errors/n"] == values["detection/val/errors/n"] > 0
