import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from gmm_torch.evaluation.metrics import augrc, aurc, excess_aurc, fpr_at_tpr, risk_coverage, unit_ranks

INFINITY, NAN = float("inf"), float("nan")
GOOD = torch.arange(20.0)  # at 95 %: 19 of 20 accepted, threshold 1
SCORES = torch.tensor([4.0, 3.0, 2.0, 1.0])
WRONG = torch.tensor([False, True, False, True])


def test_the_curve_of_four_inputs_is_that_by_hand():
    curve = risk_coverage(SCORES, WRONG)
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    torch.testing.assert_close(curve.risk, torch.tensor([0, 1 / 2, 1 / 3, 1 / 2], dtype=torch.float64))
    torch.testing.assert_close(curve.generalized_risk, torch.tensor([0, 1 / 4, 1 / 4, 1 / 2], dtype=torch.float64))


def test_the_areas_of_four_inputs_are_those_by_hand():
    assert float(aurc(SCORES, WRONG)) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    # trapezoids between coverage 0, 1/4, ... with generalized risk 0, 0, 1/4, 1/4, 1/2
    assert float(augrc(SCORES, WRONG)) == pytest.approx(((0 + 0) + (0 + 1 / 4) + (1 / 2) + (3 / 4)) / 2 / 4)
    assert float(excess_aurc(SCORES, WRONG)) == pytest.approx(
        (0 + 1 / 2 + 1 / 3 + 1 / 2) / 4 - (0 + 0 + 1 / 3 + 1 / 2) / 4
    )


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_augrc_is_the_closed_form_in_auroc_and_error_rate_with_ties(levels):
    generator = torch.Generator().manual_seed(levels)
    scores = torch.randint(levels, (500,), generator=generator).double()
    wrong = torch.rand(500, generator=generator) < 0.2
    error = float(wrong.double().mean())
    auroc = roc_auc_score(~wrong, scores)
    assert float(augrc(scores, wrong)) == pytest.approx(error * (1 - error) * (1 - auroc) + error**2 / 2)


@pytest.mark.parametrize("levels", [4, 1000])
def test_augrc_is_the_mean_over_coverage_of_the_loss_that_is_accepted(levels):
    """The definition, on a fine grid: accept the highest scores up to a coverage, of tied inputs a share of each."""
    generator = torch.Generator().manual_seed(levels)
    n, steps = 12, 600
    scores = torch.randint(levels, (n,), generator=generator).double()
    loss = torch.rand(n, generator=generator).double()
    found = []
    for step in range(steps):
        left, accepted = (step + 0.5) / steps * n, 0.0
        for level in scores.unique().flip(0):
            tied = scores == level
            share = min(1.0, left / int(tied.sum()))
            accepted += share * float(loss[tied].sum())
            left -= share * int(tied.sum())
            if left <= 0:
                break
        found.append(accepted / n)
    assert float(augrc(scores, loss)) == pytest.approx(sum(found) / steps, rel=1e-9)


@pytest.mark.parametrize("area", [aurc, augrc])
def test_a_tie_has_the_mean_area_of_its_orders(area):
    tied = torch.tensor([2.0, 1.0, 1.0, 0.0])
    loss = torch.tensor([0.0, 1.0, 0.0, 1.0])
    first, second = torch.tensor([3.0, 2.0, 1.0, 0.0]), torch.tensor([3.0, 1.0, 2.0, 0.0])
    assert float(area(tied, loss)) == pytest.approx(float(area(first, loss) + area(second, loss)) / 2)


@pytest.mark.parametrize("area", [aurc, augrc, excess_aurc])
def test_areas_do_not_depend_on_the_order_of_tied_inputs(area):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(3, (60,), generator=generator).float()
    loss = torch.rand(60, generator=generator) < 0.3
    shuffle = torch.randperm(60, generator=generator)
    assert float(area(scores, loss)) == pytest.approx(float(area(scores[shuffle], loss[shuffle])), abs=1e-12)


def test_edge_cases_of_the_areas():
    assert risk_coverage(torch.zeros(4), WRONG).risk.tolist() == [0.5] * 4  # a constant score
    assert [float(area(SCORES, torch.zeros(4))) for area in (aurc, augrc, excess_aurc)] == [0, 0, 0]
    assert float(excess_aurc(-WRONG.float(), WRONG)) == pytest.approx(0)
    infinite = torch.tensor([INFINITY, 3.0, 2.0, -INFINITY])
    assert float(aurc(infinite, WRONG)) == float(aurc(SCORES, WRONG))


@given(st.integers(1, 300), st.floats(1e-9, 1))
@example(100, 0.07)
@example(20, 0.951)
@example(2, 0.5 + 1e-10)
def test_the_share_is_compared_as_it_is_rounded_once(n, tpr):
    accepted = round(n * float(fpr_at_tpr(torch.arange(float(n)), torch.arange(float(n)), tpr)))
    assert accepted / n >= tpr
    assert accepted == 1 or (accepted - 1) / n < tpr


def test_the_false_positive_rate_is_that_by_hand():
    failures = torch.tensor([-5.0, 0.5, 0.999, 1.0, 7.0])
    assert float(fpr_at_tpr(GOOD, failures)) == pytest.approx(2 / 5)  # 1.0 ties with the threshold: accepted
    assert float(fpr_at_tpr(torch.zeros(9), torch.zeros(4))) == 1
    assert float(fpr_at_tpr(GOOD, torch.full((4,), -1.0))) == 0


def test_unit_ranks_keep_order_and_ties():
    ranks = unit_ranks(torch.tensor([-1e9, 5.0, 5.0, INFINITY, -INFINITY]))
    assert ranks.tolist() == pytest.approx([1 / 3, 2 / 3, 2 / 3, 1, 0])
    assert unit_ranks(torch.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("metric", "arguments", "match"),
    [
        (aurc, (torch.zeros(0), torch.zeros(0)), "N >= 1"),
        (aurc, (torch.zeros(3), torch.zeros(4)), r"shape \(3,\); got \(4,\)"),
        (aurc, (torch.tensor([NAN, 1.0]), torch.zeros(2)), "scores: expected numbers; 1 of 2"),
        (aurc, (torch.zeros(2), torch.tensor([NAN, 1.0])), "loss: expected numbers; 1 of 2"),
        (fpr_at_tpr, (torch.zeros(0), GOOD), "good: expected shape"),
        (fpr_at_tpr, (GOOD, GOOD[None]), r"failures: .* got \(1, 20\)"),
        (fpr_at_tpr, (GOOD, GOOD, 0.0), "tpr: expected a number"),
        (fpr_at_tpr, (GOOD, GOOD, 95), "tpr: expected a number"),
    ],
)
def test_bad_input_is_refused(metric, arguments, match):
    with pytest.raises(ValueError, match=match):
        metric(*arguments)
