"""Results on fixed inputs are those that were recorded: a change of a number is meant, or it is a fault."""

import pytest
import torch

from tests.golden.record import read, recorded

EXACT = ("p_value", "accept")
TOLERANCE = {"score": 1e-5, "influence": 1e-4, "mixture": 1e-6}


@pytest.fixture(scope="module")
def both():
    weights, numbers, words = read()
    return (*recorded(weights), numbers, words)


def test_every_number_is_the_recorded_one(both):
    found, _, kept, _ = both
    assert found.keys() == kept.keys()
    differing = {}
    for name, value in kept.items():
        exact = name.endswith(EXACT)
        part = "influence" if "influence" in name else name.partition(".")[0]
        tolerance = 0.0 if exact else TOLERANCE.get(part, TOLERANCE["score"])
        scale = float(value.double().nan_to_num(0, 0, 0).abs().max()) if value.numel() else 0.0
        if not torch.allclose(
            found[name].double(), value.double(), rtol=tolerance, atol=tolerance * scale, equal_nan=True
        ):
            differing[name] = float((found[name].double() - value.double()).abs().max())
    assert not differing


def test_layers_and_views_are_the_recorded_ones(both):
    _, found, _, kept = both
    assert found == kept
