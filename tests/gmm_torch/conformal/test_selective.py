import math
from itertools import takewhile

import pytest
import torch
from scipy import stats

from gmm_torch.conformal.selective import UnattainableRiskError, select_alpha, select_threshold
from gmm_torch.evaluation.rates import upper_bound


def labelled(n, seed, slope=0.3):
    """P-values, and errors that are rarer for larger ones."""
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(n, generator=generator)
    return p, torch.rand(n, generator=generator) < slope * (1 - p)


def test_one_candidate_is_one_binomial_bound():
    p = torch.tensor([0.01] * 10 + [0.9] * 90)
    errors = torch.tensor([True] * 10 + [True] + [False] * 89)
    found = select_alpha(p, errors, target=0.06, delta=0.1, alphas=[0.05], n_starts=1)
    assert (found.threshold, found.n_accepted, found.n_errors, found.n) == (0.05, 90, 1, 100)
    assert found.risk_bound == pytest.approx(upper_bound(1, 90, 0.9))
    assert found.risk_bound < 0.06
    assert found.coverage == 0.9
    assert found.risk == pytest.approx(1 / 90)


def rejects(accepted, errors, target, level):
    """Whether the exact binomial test rejects "the error rate among the accepted is above the target"."""
    n_accepted, n_errors = int(accepted.sum()), int((accepted & errors).sum())
    return n_accepted > 0 and stats.binom.cdf(n_errors, n_accepted, target) <= level


def test_a_sequence_stops_at_its_first_failure():
    # all is wrong between 0.3 and 0.48: 0.3 fails, so 0.05 is not tried, although it would pass
    p = torch.linspace(0.005, 0.995, 1000)
    errors = (p < 0.48) & (p > 0.3)
    alphas = [0.6, 0.45, 0.3, 0.05]
    assert [rejects(p > alpha, errors, 0.22, 0.1) for alpha in alphas] == [True, True, False, True]
    assert select_alpha(p, errors, target=0.22, delta=0.1, alphas=alphas, n_starts=1).threshold == 0.45


@pytest.mark.parametrize("n_starts", [1, 2, 3])
def test_every_start_is_a_sequence_at_its_share_of_delta(n_starts):
    alphas, target, delta = (0.6, 0.5, 0.4, 0.3, 0.2, 0.1), 0.3, 0.3
    starts = {1: (0,), 2: (0, 3), 3: (0, 2, 4)}[n_starts]  # sixty labelled inputs suffice for the first candidate
    found = set()
    for seed in range(60):
        p, errors = labelled(60, seed, slope=0.45)
        passes = {alpha: rejects(p > alpha, errors, target, delta / n_starts) for alpha in alphas}
        passed = [alpha for start in starts for alpha in takewhile(passes.get, alphas[start:])]
        if not passed:
            with pytest.raises(UnattainableRiskError):
                select_alpha(p, errors, target, delta, alphas, n_starts)
            continue
        found.add(min(passed))
        assert select_alpha(p, errors, target, delta, alphas, n_starts).threshold == min(passed)
    assert len(found) >= 4


def test_the_threshold_is_the_lowest_that_passes_at_its_share_of_delta():
    found = set()
    for seed in range(60):
        scores, errors = labelled(40, seed, slope=0.45)
        passed = [float(score) for score in scores if rejects(scores > score, errors, 0.3, 0.3 / 40)]
        if not passed:
            with pytest.raises(UnattainableRiskError):
                select_threshold(scores, errors, 0.3, 0.3, n_candidates=40)
            continue
        found.add(min(passed))
        assert select_threshold(scores, errors, 0.3, 0.3, n_candidates=40).threshold == min(passed)
    assert len(found) > 20


@pytest.mark.parametrize("select", [select_alpha, select_threshold])
def test_a_laxer_wish_accepts_more(select):
    p, errors = labelled(4000, 0)
    coverages = [select(p, errors, target, 0.1).coverage for target in (0.05, 0.1, 0.14)]
    assert coverages == sorted(coverages)
    assert coverages[0] < coverages[-1]
    assert select(p, errors, 0.1, 0.01).coverage <= select(p, errors, 0.1, 0.2).coverage
    assert select(p, errors, 0.5, 0.1).coverage > 0.95


@pytest.mark.parametrize("select", [select_alpha, select_threshold])
def test_what_can_not_be_had_is_refused_with_the_reason(select):
    p, errors = labelled(1000, 0)
    with pytest.raises(UnattainableRiskError, match=r"error rate of 1e-05 .* even without any error it takes"):
        select(p, errors, 1e-5)
    with pytest.raises(UnattainableRiskError, match=r"are wrong: a rate of up to 0\.\d+ can't be excluded"):
        select(p, torch.rand(1000, generator=torch.Generator().manual_seed(1)) < 0.3, 0.1)


def test_thresholds_are_scores_and_accept_strictly_above():
    p, errors = labelled(500, 2)
    scores = (p * 10).round()  # many ties
    found = select_threshold(scores, errors, target=0.15)
    assert found.threshold in scores
    assert found.n_accepted == int((scores > found.threshold).sum())


def test_few_labelled_inputs_need_few_candidates():
    errors = torch.zeros(3, dtype=torch.bool)
    assert select_threshold(torch.arange(3.0), errors, target=0.9, delta=0.5).n_accepted > 0


def test_a_perfect_classifier_is_accepted_nearly_whole():
    p, _ = labelled(2000, 0)
    found = select_alpha(p, torch.zeros(2000), target=0.01, delta=0.1)
    assert found.threshold == 0.001
    assert found.risk_bound == pytest.approx(-math.expm1(math.log(0.1 / 4) / found.n_accepted))


@pytest.mark.parametrize(
    ("errors", "target", "match"),
    [
        (torch.zeros(3), 0.1, "errors: expected one per score"),
        (torch.full((4,), 2), 0.1, "errors: expected True or False"),
        (torch.zeros(4), 1.5, "target: expected"),
    ],
)
def test_bad_arguments_are_refused_in_words(errors, target, match):
    for select in (select_alpha, select_threshold):
        with pytest.raises(ValueError, match=match):
            select(torch.rand(4), errors, target)


def test_candidates_must_descend():
    with pytest.raises(ValueError, match="alphas: expected"):
        select_alpha(torch.rand(4), torch.zeros(4), 0.1, alphas=[0.1, 0.2])
