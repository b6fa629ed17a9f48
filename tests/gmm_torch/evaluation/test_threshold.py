import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from gmm_torch.evaluation.threshold import fpr_at_tpr, threshold_at_tpr

GOOD = torch.arange(20.0)  # at 95 %: 19 of 20 accepted, threshold 1


def test_the_threshold_is_the_highest_that_accepts_enough():
    assert float(threshold_at_tpr(GOOD, 0.95)) == 1
    assert float(threshold_at_tpr(GOOD, 0.951)) == 0
    assert float(threshold_at_tpr(GOOD, 1.0)) == 0
    assert float(threshold_at_tpr(GOOD, 1e-6)) == 19


@pytest.mark.parametrize("n", [7, 20, 100, 333])
@pytest.mark.parametrize("tpr", [0.07, 0.5, 0.9, 0.95, 1.0])
def test_it_accepts_at_least_the_share_asked_for_and_no_input_more_than_needed(n, tpr):
    good = torch.randn(n, generator=torch.Generator().manual_seed(n))
    accepted = int((good >= threshold_at_tpr(good, tpr)).sum())
    assert accepted >= tpr * n - 1e-9
    assert accepted - 1 < tpr * n


def test_the_rate_is_that_by_hand():
    failures = torch.tensor([-5.0, 0.5, 0.999, 1.0, 7.0])
    assert float(fpr_at_tpr(GOOD, failures)) == pytest.approx(2 / 5)  # 1.0 ties with the threshold: accepted


def test_a_constant_score_catches_nothing_and_a_perfect_one_everything():
    assert float(fpr_at_tpr(torch.zeros(9), torch.zeros(4))) == 1
    assert float(fpr_at_tpr(GOOD, torch.full((4,), -1.0))) == 0


@pytest.mark.parametrize(
    ("good", "failures", "tpr", "match"),
    [
        (torch.zeros(0), GOOD, 0.95, "good: expected shape"),
        (GOOD, torch.zeros(0), 0.95, "failures: expected shape"),
        (GOOD, GOOD[None], 0.95, r"got \(1, 20\)"),
        (torch.tensor([float("nan")]), GOOD, 0.95, "NaN"),
        (GOOD, GOOD, 0.0, "tpr: expected a share"),
        (GOOD, GOOD, 95, "tpr: expected a share"),
    ],
)
def test_bad_input_is_refused_in_words(good, failures, tpr, match):
    with pytest.raises(ValueError, match=match):
        fpr_at_tpr(good, failures, tpr)


@given(st.integers(1, 300), st.floats(1e-9, 1))
@example(100, 0.07)
@example(2, 0.5 + 1e-10)
def test_the_share_is_compared_as_it_is_rounded_once(n, tpr):
    accepted = int((torch.arange(float(n)) >= threshold_at_tpr(torch.arange(float(n)), tpr)).sum())
    assert accepted / n >= tpr
    assert accepted == 1 or (accepted - 1) / n < tpr
