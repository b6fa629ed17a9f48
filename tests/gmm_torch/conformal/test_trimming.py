import pytest
import torch
from scipy import stats

from gmm_torch.conformal.trimming import to_label, trim

SCORES = torch.randn(200, generator=torch.Generator().manual_seed(0))


def test_the_lowest_and_a_random_sample_of_the_others_are_looked_at():
    lowest, drawn = to_label(SCORES, 30, 50)
    assert torch.equal(lowest, SCORES.argsort()[:30])
    assert len(drawn) == len(set(drawn.tolist())) == 50
    assert not torch.isin(drawn, lowest).any()
    assert torch.equal(to_label(SCORES, 30, 50)[1], drawn)
    assert not torch.equal(to_label(SCORES, 30, 50, seed=1)[1], drawn)


def test_failures_that_were_seen_go_and_those_that_were_not_are_bounded():
    lowest, drawn = to_label(SCORES, 30, 50)
    failed = torch.zeros(30, dtype=torch.bool)
    failed[:10] = True
    found = trim(200, lowest, failed, drawn, torch.zeros(50, dtype=torch.bool), delta=0.05)
    assert int(found.keep.sum()) == 190
    assert not found.keep[lowest[:10]].any()
    # so many among the 170 others, and none in a sample of 50, have a probability above 0.05; one more has not
    assert (
        stats.hypergeom.cdf(0, 170, found.n_failures, 50)
        > 0.05
        >= stats.hypergeom.cdf(0, 170, found.n_failures + 1, 50)
    )
    assert found.shrink == (191 - found.n_failures) / 191
    everything = torch.arange(200)
    all_seen = trim(200, everything[:0], failed[:0], everything, SCORES < -1, delta=0.05)
    assert (all_seen.n_failures, all_seen.shrink) == (0, 1)
    assert torch.equal(all_seen.keep, SCORES >= -1)


def test_bad_arguments_are_refused_in_words():
    with pytest.raises(ValueError, match=r"n_lowest \+ n_random: expected at most 200; got 201"):
        to_label(SCORES, 100, 101)
    with pytest.raises(ValueError, match="n_random: expected at least 1"):
        to_label(SCORES, 100, 0)
    lowest, drawn = to_label(SCORES, 3, 5)
    with pytest.raises(ValueError, match="drawn: expected one bool per index"):
        trim(200, lowest, lowest > 0, drawn, torch.zeros(5), 0.1)
    with pytest.raises(ValueError, match="delta: expected"):
        trim(200, lowest, lowest > 0, drawn, drawn > 0, 0.0)
