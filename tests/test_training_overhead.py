"""The benchmark of a followed training, on a network that is over at once."""

import importlib

import torch
from torch import nn

from tests.pages import ROOT


def test_a_step_is_timed_with_a_mixture_that_looks_on_and_without(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    overhead = importlib.import_module("training_overhead")
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10)
    monkeypatch.setitem(overhead.CLASSIFIERS, "tiny", (lambda: nn.Sequential(*layers), 8))
    training = overhead.Training("tiny", torch.device("cpu"), 1)
    assert [training.step(online, lambda: float(training.online._n_seen)) for online in (False, True)] == [0, 128]
