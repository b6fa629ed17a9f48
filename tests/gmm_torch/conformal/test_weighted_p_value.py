import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gmm_torch.conformal.p_values import conformal_p_value, smoothed_p_value
from gmm_torch.conformal.weighted_p_value import (
    cumulative_weights,
    effective_sample_size,
    largest_log_weight,
    ordered_weights,
    weighted_p_value,
    weighted_threshold,
)


def brute_force(score, weight, calibration, weights):
    sums = [
        (sum(w for s, w in zip(calibration.tolist(), weights.tolist(), strict=True) if s <= x) + v)
        / (float(weights.sum()) + v)
        for x, v in zip(score.tolist(), weight.tolist(), strict=True)
    ]
    return torch.tensor(sums, dtype=torch.float64)


def problem(n, seed, levels=None):
    g = torch.Generator().manual_seed(seed)
    scores, x = torch.randn(n, generator=g).double(), torch.randn(30, generator=g).double()
    if levels:
        scores, x = (scores * levels).round(), (x * levels).round()
    log_weights, own = 2 * torch.randn(n, generator=g).double(), 2 * torch.randn(30, generator=g).double()
    return x, own, scores, log_weights


@given(n=st.integers(1, 60), seed=st.integers(0, 1000), levels=st.sampled_from([None, 1]))
def test_it_is_the_sum_of_weights(n, seed, levels):
    x, own, scores, log_weights = problem(n, seed, levels)
    found = weighted_p_value(x, own, scores, log_weights)
    torch.testing.assert_close(found, brute_force(x, own.exp(), scores, log_weights.exp()))
    assert found.dtype == torch.float64
    again = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(weighted_p_value(x, own, scores[again], log_weights[again]), found)  # to the last digit
    alone = torch.cat([weighted_p_value(x[i : i + 1], own[i : i + 1], scores, log_weights) for i in range(len(x))])
    assert torch.equal(alone, found)
    torch.testing.assert_close(weighted_p_value(x, own + 700, scores, log_weights + 700), found)  # ratios alone matter


@given(n=st.integers(1, 300), seed=st.integers(0, 1000), constant=st.sampled_from([0.0, -745.0, 1e5, 0.3]))
def test_equal_weights_give_the_plain_p_values_exactly(n, seed, constant):
    x, _, scores, _ = problem(n, seed, 2)
    own, log_weights = torch.full_like(x, constant), torch.full_like(scores, constant)
    ordered = scores.sort().values
    assert torch.equal(weighted_p_value(x, own, scores, log_weights), conformal_p_value(x, ordered))
    u = 1 - torch.rand(len(x), generator=torch.Generator().manual_seed(seed)).double()
    found = weighted_p_value(x, own, scores, log_weights, uniform=u)
    torch.testing.assert_close(found, smoothed_p_value(x, ordered, u), rtol=1e-14, atol=0)


def test_extremes_of_weights_and_scores_have_p_values():
    scores, log_weights = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 1.0, 0.5])
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, 2.0, 2.0, 2.0, 2.0])
    own = torch.tensor([0.0, 0.0, 0.0, torch.inf, torch.nan, -torch.inf, 1e30])
    found = weighted_p_value(x, own, scores, log_weights)
    total = log_weights.double().exp().sum()
    low = float(1 / (1 + total))
    share = float(log_weights[:2].double().exp().sum() / total)
    torch.testing.assert_close(found, torch.tensor([low, 1.0, low, 1.0, 1.0, share, 1.0]).double())
    nothing = torch.full((3,), -torch.inf)
    assert weighted_p_value(x[3:4], nothing[:1], scores, nothing).tolist() == [1.0]
    assert weighted_p_value(x[3:4], own[:1], scores, nothing).tolist() == [1.0]
    wide = weighted_p_value(torch.tensor([2.5]), torch.tensor([-2000.0]), scores, torch.tensor([-2000.0, 3000.0, 0.0]))
    assert wide.tolist() == [1.0]
    assert weighted_p_value(x, own, scores[:0], log_weights[:0]).eq(1).all()
    for bad_scores, bad_weights in (
        (torch.tensor([torch.nan, 1.0, 2.0]), log_weights),
        (scores, torch.tensor([torch.nan, 0.0, 0.0])),
        (scores, torch.tensor([torch.inf, 0.0, 0.0])),
    ):
        with pytest.raises(ValueError, match="calibration scores and log-weights: expected finite"):
            weighted_p_value(x, own, bad_scores, bad_weights)
    with pytest.raises(ValueError, match=r"log-weights: expected one number per score, shape \(7,\); got \(6,\)"):
        weighted_p_value(x, own[:6], scores, log_weights)
    with pytest.raises(ValueError, match="one of each per input"):
        weighted_p_value(x, own, scores, log_weights[:2])


@given(n=st.integers(1, 60), seed=st.integers(0, 1000), alpha=st.floats(0.001, 0.999))
def test_the_threshold_never_disagrees_with_the_p_value(n, seed, alpha):
    x, own, scores, log_weights = problem(n, seed, 3)
    scores, log_weights = ordered_weights(scores, log_weights)
    total, largest = cumulative_weights(log_weights), largest_log_weight(log_weights)
    k = weighted_threshold(total, largest, own, alpha)
    threshold = torch.where(k > 0, scores[(k - 1).clamp_min(0)], -torch.inf)
    assert torch.equal(x >= threshold, weighted_p_value(x, own, scores, log_weights) > alpha)


def test_the_effective_sample_size():
    assert effective_sample_size(torch.full((7,), 800.0)) == pytest.approx(7)
    assert effective_sample_size(torch.tensor([0.0, -torch.inf, -torch.inf])) == 1
    assert effective_sample_size(torch.tensor([2.0, 1.0]).log()) == pytest.approx(9 / 5)
    assert effective_sample_size(torch.tensor([-torch.inf])) == effective_sample_size(torch.empty(0)) == 0
