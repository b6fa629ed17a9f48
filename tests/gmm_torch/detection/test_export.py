"""Classifier and detector as one exported module."""

import pytest
import torch
from torch import nn

from gmm_torch import FailureDetector
from gmm_torch.detection.scores import SCORES, make_score
from tests.gmm_torch.detection.conftest import batches, images

pytestmark = pytest.mark.export


def exported(detector, x):
    batch = torch.export.Dim("batch", min=2, max=4096)
    return torch.export.export(detector.eval(), (x,), dynamic_shapes={"x": {0: batch}})


def check(detector, program, inputs):
    module = program.module()
    for x in inputs:
        for eager, other in zip(detector(x), module(x), strict=True):
            assert eager.dtype == other.dtype
            torch.testing.assert_close(other, eager, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SCORES)
def test_an_exported_detector_gives_the_eager_verdicts_at_any_batch_size(name, net):
    score = make_score(name)
    detector = FailureDetector(net, score=score).fit(batches(300, 1)).calibrate(batches(200, 2))
    check(
        detector, exported(detector, images(4, 0)), [images(2, 3), images(7, 3), images(33, 4) * 3, images(33, 4) * 10]
    )


@pytest.mark.parametrize("views", [1, ("identity", "shift")])
def test_the_default_is_exported_with_other_views_and_with_one_goes_through_a_file(views, net, tmp_path):
    detector = FailureDetector(net, n_components=3, views=views).fit(batches(300, 1)).calibrate(batches(300, 2))
    program = exported(detector, images(4, 0))
    if views == 1:
        torch.export.save(program, tmp_path / "detector.pt2")
        program = torch.export.load(tmp_path / "detector.pt2")
    check(detector, program, [images(2, 3), images(50, 4), images(50, 4) * 10])
    assert not program.module()(images(5, 4) * 10).accept.any()


def test_an_exported_detector_of_a_network_with_stages(tmp_path):
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    x = torch.rand(400, 3, 8, 8)
    detector = FailureDetector(net, n_components=2).fit(x[:200].split(50)).calibrate(x[200:].split(50))
    check(detector, exported(detector, x[:3]), [x[:2], x[:77]])
