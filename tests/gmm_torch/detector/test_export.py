"""Classifier and detector as one exported module."""

import copy

import pytest
import torch
from torch import nn

from gmm_torch import FailureDetector
from gmm_torch.scores import SCORES
from gmm_torch.scores.combined import default_parts
from tests.gmm_torch.conftest import images, of_score

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


# the parts of the default are exported with it: most with several views, `depth_consistency` with one
@pytest.mark.parametrize("name", [name for name in SCORES if name not in default_parts()])
def test_an_exported_detector_gives_the_eager_verdicts_at_any_batch_size(name):
    detector = copy.deepcopy(of_score(name))
    check(
        detector, exported(detector, images(4, 0)), [images(2, 3), images(7, 3), images(33, 4) * 3, images(33, 4) * 10]
    )


def test_the_default_with_one_view_of_a_network_with_stages_goes_through_a_file(tmp_path):
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    x = torch.rand(400, 3, 8, 8)
    detector = FailureDetector(net, n_components=2, views=1).fit(x[:200].split(50)).calibrate(x[200:].split(50))
    assert "depth_consistency" in detector.score.parts
    torch.export.save(exported(detector, x[:3]), tmp_path / "detector.pt2")
    program = torch.export.load(tmp_path / "detector.pt2")
    check(detector, program, [x[:2], x[:77], x[:50] * 10])
    assert not program.module()(x[:5] * 10).accept.any()
