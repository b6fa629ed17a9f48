"""The benchmark of a followed training, on a network that is over at once."""

import importlib

import torch
from torch import nn

from tests.pages import ROOT


def test_steps_with_and_without_a_mixture_are_measured_in_pairs(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    overhead = importlib.import_module("training_overhead")
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10)
    monkeypatch.setitem(overhead.CLASSIFIERS, "tiny", (lambda: nn.Sequential(*layers), 8))
    found = overhead.measure("tiny", torch.device("cpu"), 0, 1)
    assert found["pairs"] == 5
    assert found["ratio"] > 0
    assert found["renewal_points"] > overhead.BATCH
