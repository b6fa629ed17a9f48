"""A chunk of the E-step is one CUDA graph, which a card replays without the host."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_leaves

TYPES = ("full", "tied", "diag", "spherical")


@pytest.fixture(scope="module")
def captured():
    """The benchmark that captures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
        yield importlib.import_module("em_captured")
        for name in ("em_captured", "em_compiled", "pages", "problems", "timings"):
            sys.modules.pop(name)


def scene(captured, covariance_type, device):
    """An E-step, and two halves of the points."""
    problem = captured.Problem(600, 19, 3, covariance_type)
    x = problem.points().to(device)
    return captured.step_of(problem, x), x[:300], x[300:]


def close(found, expected):
    for a, b in zip(tree_leaves(vars(found)), tree_leaves(vars(expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_replayed_chunk_has_the_statistics_of_other_points(captured, covariance_type):
    step, first, other = scene(captured, covariance_type, "cuda")
    replay = captured.captured(step, first)
    for x in (other, first):
        close(replay(x), step.chunk(x, None))
