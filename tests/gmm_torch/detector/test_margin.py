"""The margin's gradient, on classifiers and in modes in which it could get lost."""

import pytest
import torch

from gmm_torch import FailureDetector
from gmm_torch.scores import make_score
from tests.gmm_torch.conftest import batches, images


@pytest.fixture(params=[1, 300, 1e4], ids=["unsure", "sure", "certain"])
def detector(net, request):
    """Of a classifier whose probabilities are up to one, to the last bit."""
    with torch.no_grad():
        net.head.weight *= request.param
        net.head.bias *= request.param
    return FailureDetector(net, n_components=2).fit(batches(300, 1)).calibrate(batches(300, 2))


def test_a_step_along_the_gradient_is_one(detector):
    x = torch.cat([images(100, 3), 1.2 * images(30, 4), torch.cat([b[0] for b in batches(300, 2)])]).requires_grad_()
    margin = detector.margin(x)
    (gradient,) = torch.autograd.grad(margin.sum(), x)
    assert torch.isfinite(gradient).all()
    norm = gradient.flatten(1).norm(dim=1)
    assert (norm < 1e7).all()
    assert (norm > 0).float().mean() > 0.97  # a few lie above all references
    with torch.no_grad():
        moves = norm > 0
        step = 1e-3 * gradient[moves] / norm[moves, None, None, None]
        torch.testing.assert_close(step.flatten(1).norm(dim=1), torch.full((int(moves.sum()),), 1e-3))
        gain = detector.margin(x[moves] + step) - margin[moves]
        assert (gain > -1e-6).float().mean() > 0.8


@pytest.mark.parametrize("score", [None, "mahalanobis", "log_likelihood", "depth_consistency"])
@pytest.mark.parametrize("how", ["fitted", "loaded"])
def test_a_detector_made_in_inference_mode_has_a_gradient(net, score, how, tmp_path):
    make = lambda: FailureDetector(net, n_components=2 if score is None else None, score=score and make_score(score))  # noqa: E731
    with torch.inference_mode():
        detector = make().fit(batches(300, 1)).calibrate(batches(300, 2))
        if how == "loaded":
            detector.save(tmp_path / "d.safetensors")
            detector = FailureDetector.load(tmp_path / "d.safetensors", net)
        expected = detector(images(20, 3)).score
    assert not any(value.is_inference() for value in detector.state_dict(keep_vars=True).values())
    x = images(20, 3).requires_grad_()
    detector.margin(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad != 0).any()
    assert torch.equal(detector(x).score, expected)
