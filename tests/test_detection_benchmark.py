"""The peers that the detection benchmark makes itself, and what stands beside its means."""

import importlib
import sys
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.mixture import GaussianMixture

from tests.pages import ROOT

N, C = 300, 3


@pytest.fixture
def benchmark(monkeypatch):
    """Modules of `benchmarks/` by name, where the packages of peers may be missing."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for name in ("pytorch_ood", "pytorch_ood.api", "pytorch_ood.detector"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if (ROOT / "benchmarks" / f"{name}.py").is_file():
            del sys.modules[name]


def blobs(n, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, C, (n,), generator=generator)
    return {layer: torch.eye(8)[labels] + 0.3 * torch.randn(n, 8, generator=generator) for layer in "ab"}, labels


def test_joint_layers_are_what_loops_over_neighbours_find(benchmark):
    features, labels = blobs(N, 0)
    predictions = torch.where(torch.arange(N) % 10 == 0, (labels + 1) % C, labels)
    peer = benchmark("detection_peers").JointLayers(features, labels, predictions, C)
    assert peer.k == round(N**0.4)
    unit = {layer: (z / z.norm(dim=1, keepdim=True)).double().numpy() for layer, z in features.items()}
    counts = {}
    for layer, z in unit.items():
        distance = ((z[:, None] - z[None]) ** 2).sum(-1)
        np.fill_diagonal(distance, -1)  # itself comes first, and is left out
        nearest = distance.argsort(1)[:, 1 : peer.k + 1]
        counts[layer] = np.stack([(labels.numpy()[nearest] == c).sum(1) for c in range(C)], 1)
    statistic = {}
    for layer, count in counts.items():
        q = np.stack([count[predictions.numpy() == c].sum(0) + 1 for c in range(C)]).astype(float)
        q /= q.sum(1, keepdims=True)
        np.testing.assert_allclose(peer.expected[layer].numpy(), q, rtol=1e-5)
        expected = peer.k * q[predictions.numpy()]
        statistic[layer] = np.where(count > 0, count * np.log(np.maximum(count, 1) / expected), 0).sum(1)
    for c in range(C):
        found = peer.reference["a b"][c].numpy()
        both = (statistic["a"] + statistic["b"])[predictions.numpy() == c]
        np.testing.assert_allclose(found, np.sort(both), rtol=1e-3, atol=1e-3)


def test_joint_layers_find_a_prediction_that_the_layers_contradict(benchmark):
    features, labels = blobs(N, 0)
    peer = benchmark("detection_peers").JointLayers(features, labels, labels, C)
    new, truth = blobs(200, 1)
    good, bad = peer(new, truth), peer(new, (truth + 1) % C)
    assert bool(torch.isfinite(torch.cat([good, bad])).all())
    assert stats.mannwhitneyu(good.numpy(), bad.numpy()).statistic / 200**2 > 0.95


def test_the_mixture_of_scores_is_that_of_standardised_scores(benchmark):
    generator = torch.Generator().manual_seed(0)
    peers = benchmark("detection_peers")
    scores = {name: {"": 10**i * torch.randn(400, generator=generator)} for i, name in enumerate("xyz")}
    clean = peers.together(scores, "xyz")[""]
    assert clean.shape == (400, 3)
    found = peers.MixtureOfScores(clean, n_components=2, seed=1)(clean[:20])
    units = ((clean - clean.mean(0)) / clean.std(0)).double().numpy()
    expected = GaussianMixture(2, reg_covar=1e-4, random_state=1).fit(units).score_samples(units[:20])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-3)


def test_held_out_images_stand_beside_the_means_and_in_none(benchmark):
    detection = benchmark("detection")
    row = detection.Row("ours", "a method")
    for errors, fgsm, held_out in ((90.0, 70.0, 50.0), (92.0, 70.0, 51.0)):
        row.add({detection.ERRORS: errors, "fgsm": fgsm, detection.HELD_OUT: held_out})
    summary = row.summary([detection.ERRORS, "fgsm"])
    assert summary["mean"][0] == 80.5
    assert summary["min"][0] == 70
    assert summary[detection.HELD_OUT][0] == 50.5
    shown = {"group": row.group, "method": row.method}
    shown["auroc"] = {name: {"mean": mean, "std": std} for name, (mean, std) in summary.items()}
    counts = {"errors": 3, "fgsm": 4, "held out": 5, "all test images": 9, "fit": 9, "calibration": 9, "test": 9}
    peers = [{**shown, "group": group} for group in ("peer", "peer over views")]
    result = {
        "n": counts, "columns": ["errors", "fgsm"], "seeds": [0, 1], "accuracy": 0.9, "device": "cpu", "versions": {},
        "rows": [shown, *peers], "peers not run": {},
    }  # fmt: skip
    text = detection.document(result)
    assert "| method | errors | fgsm | mean | min | held out |" in text
    assert "held out: 5 training images, no failures, so 50 is right" in text
    assert "labels of the calibration images" not in text  # a group without a row has no table
    del counts["held out"]
    assert "held out" not in detection.document(result)
