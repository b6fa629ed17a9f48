import json
import math

import pytest
import torch

from gmm_torch.conformal.reference_martingale import ReferenceMartingale
from gmm_torch.conformal.shift_or_loss import WORDS, ShiftOrLoss
from gmm_torch.conformal.thinning import thinned

G = torch.Generator().manual_seed(0)
SCORES = torch.rand(2000, generator=G)
RIGHT = (torch.rand(2000, generator=G) < 0.5 + 0.5 * SCORES).double()
WEIGHTS = torch.where(SCORES < 0.5, 1.8, 0.2).log()  # deployment inputs have low scores more often


def stream(share_low, accuracy, n=400, seed=1):
    g = torch.Generator().manual_seed(seed)
    scores = torch.rand(n, generator=g) / 2
    scores = torch.where(torch.rand(n, generator=g) < share_low, scores, scores + 0.5)
    return scores, (torch.rand(n, generator=g) < accuracy + 0.5 * scores).double()


def watch():
    return ShiftOrLoss(SCORES, RIGHT, WEIGHTS, 1.8)


@pytest.mark.parametrize(
    ("share_low", "accuracy", "finding"),
    [(0.5, 0.5, "inputs moved further"), (0.9, 0.5, "inputs moved"), (0.9, 0.0, "accuracy fell")],
)
def test_it_tells_what_happened(share_low, accuracy, finding):
    watcher = watch()
    scores, right = stream(share_low, accuracy)
    watcher.update(scores)
    found = watcher.label(torch.arange(400), right)
    assert found.finding == finding
    assert found.alarm
    assert WORDS[finding] in repr(watcher)


def test_nothing_moved_and_no_label_and_a_pause():
    unweighted = ShiftOrLoss(SCORES, RIGHT, torch.zeros(2000), 1.0)
    assert unweighted.adapted.n == 2000
    found = unweighted.update(stream(0.5, 0.5)[0])
    assert found == ("nothing", None, None, None)
    assert not found.alarm
    assert "says nothing of accuracy yet" in repr(unweighted)
    later = ShiftOrLoss(SCORES, RIGHT, torch.zeros(2000), 1.0)
    later.load_state_dict(json.loads(json.dumps(unweighted.state_dict())))
    wrong = torch.zeros(100, dtype=torch.float64)
    order = torch.arange(100).flip(0)
    assert later.label(order, wrong) == unweighted.label(order, wrong)
    assert later.record.finding == "accuracy fell"
    assert 50 < later.record.outcomes_at < 100  # an index of the stream, whose labels came backwards


def test_inputs_are_kept_as_often_as_they_weigh():
    keep = thinned(WEIGHTS, 1.8)
    assert bool(keep[SCORES < 0.5].all())
    assert 0.05 < float(keep[SCORES >= 0.5].double().mean()) < 0.18
    assert torch.equal(keep, thinned(WEIGHTS, 1.8))
    assert not torch.equal(keep, thinned(WEIGHTS, 1.8, seed=1))
    assert not thinned(torch.full((50,), -math.inf), 1.0).any()


def test_bad_arguments_are_refused_in_words():
    with pytest.raises(ValueError, match=r"weights: expected such that at least 20 of 2000 .* got 0"):
        ShiftOrLoss(SCORES, RIGHT, torch.full((2000,), -99.0), 1.0)
    with pytest.raises(ValueError, match="outcomes and log-weights: expected one of each"):
        ShiftOrLoss(SCORES, RIGHT[:5], WEIGHTS, 1.8)
    for weights in (WEIGHTS, WEIGHTS * torch.nan):
        with pytest.raises(ValueError, match="log-weights: expected"):
            thinned(weights, 1.0)
    with pytest.raises(ValueError, match="max_weight: expected"):
        thinned(WEIGHTS, 0.0)
    watcher = watch()
    watcher.update(SCORES[:3])
    with pytest.raises(ValueError, match="inputs that were judged, 0 to 2; got 3"):
        watcher.label(torch.tensor([3]), torch.tensor([1.0]))
    with pytest.raises(ValueError, match="labels: expected one number per index"):
        watcher.label(torch.tensor([0]), torch.tensor([True]))
    assert isinstance(watcher.inputs, ReferenceMartingale)
