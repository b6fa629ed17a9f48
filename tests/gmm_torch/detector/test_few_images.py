"""What few images cost: there is no number of calibration images below which the default detector fails."""

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from gmm_torch import FailureDetector
from gmm_torch.detector import Features

N_CLASSES, SIZE = 6, 12


def smooth(n: int, generator: torch.Generator) -> Tensor:
    """(n, 1, SIZE, SIZE) in [0, 1]."""
    coarse = torch.rand(n, 1, 4, 4, generator=generator)
    return nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear")


def labelled(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images that mix the pattern of their class with another pattern, under noise: some can't be told."""
    generator = torch.Generator().manual_seed(seed)
    patterns = smooth(N_CLASSES, torch.Generator().manual_seed(0))
    y = torch.randint(N_CLASSES, (n,), generator=generator)
    share = 0.35 + 0.65 * torch.rand(n, 1, 1, 1, generator=generator)
    x = share * patterns[y] + (1 - share) * smooth(n, generator)
    return (x + 0.1 * torch.randn(x.shape, generator=generator)).clamp(0, 1), y


def block(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride=2, padding=1), nn.BatchNorm2d(out), nn.ReLU())


class Judged:
    """Features of a small trained network, and how well a detector of so many images finds its errors and the rest."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(block(1, 16), block(16, 32), block(32, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        net.append(nn.Linear(64, N_CLASSES))
        optimizer = torch.optim.Adam(net.parameters(), 3e-3)
        x, y = labelled(2000, 1)
        for _ in range(5):
            for rows in torch.randperm(len(x)).split(100):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()
        self.net = net.eval()
        self.fitted: dict[int, FailureDetector] = {}
        generator = torch.Generator().manual_seed(5)
        test, labels = labelled(1200, 4)
        self.fit, self.calibration = self.outputs(x), self.outputs(labelled(1000, 3)[0])
        self.test = self.outputs(test)
        self.right = self.test.own_logits.argmax(-1) == labels
        others = {
            "patterns": smooth(200, generator),
            "noise": torch.rand(200, 1, SIZE, SIZE, generator=generator),
            "noisier": (test[:200] + 0.15 * torch.randn(200, 1, SIZE, SIZE, generator=generator)).clamp(0, 1),
        }
        self.others = {name: self.outputs(images) for name, images in others.items()}

    def outputs(self, x: Tensor) -> Features:
        return FailureDetector(self.net).outputs(x.split(250))

    @torch.no_grad()
    def areas(self, n_fit: int, n_calibration: int) -> tuple[float, float]:
        """AUROC in % of errors, and the mean over errors and other sets."""
        if n_fit not in self.fitted:
            self.fitted[n_fit] = FailureDetector(self.net, views=3).fit_outputs(self.fit.rows(slice(n_fit)))
        detector = self.fitted[n_fit]
        detector.calibrate_outputs(self.calibration.rows(slice(n_calibration)))
        clean = detector.score(self.test)
        found = [area(clean[self.right], clean[~self.right])]
        found += [area(clean, detector.score(other)) for other in self.others.values()]
        return found[0], sum(found) / len(found)

    @property
    def softmax(self) -> float:
        """AUROC in % of errors by the largest softmax probability."""
        certainty = self.test.own_logits.log_softmax(-1).amax(-1)
        return area(certainty[self.right], certainty[~self.right])


def area(clean: Tensor, failed: Tensor) -> float:
    truth = [0] * len(clean) + [1] * len(failed)
    return 100 * float(roc_auc_score(truth, -torch.cat([clean, failed])))


@pytest.fixture(scope="module")
def judged() -> Judged:
    return Judged()


@pytest.mark.parametrize("n_fit", [200, 500])
def test_there_is_no_cliff_between_140_and_200_calibration_images(judged, n_fit):
    few, more = judged.areas(n_fit, 140), judged.areas(n_fit, 200)
    assert few == pytest.approx(more, abs=2)


def test_few_images_cost_a_few_points(judged):
    few, many = judged.areas(500, 60), judged.areas(2000, 1000)
    assert few[1] > many[1] - 5


@pytest.mark.parametrize(("n_fit", "n_calibration"), [(100, 20), (200, 60), (500, 140), (2000, 1000)])
def test_errors_are_not_far_under_the_softmax(judged, n_fit, n_calibration):
    assert judged.areas(n_fit, n_calibration)[0] > judged.softmax - 3
