import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

from gmm_torch.conformal.p_values import conformal_p_value
from gmm_torch.scores.combination import expected_auroc, log_tail, root_mean


def draws(n, seed):
    return torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_ties_and_a_constant_reference_stay_finite():
    reference = torch.zeros(20)
    found = log_tail(torch.tensor([-1.0, 0.0, 1.0]), reference)
    assert torch.isfinite(found).all()
    assert (found.diff() >= 0).all()


def test_two_lowest_scores_that_nearly_agree_do_not_make_the_tail_steep():
    reference = torch.arange(20, dtype=torch.float64)
    close = torch.cat([torch.tensor([1 - 1e-3]), reference[1:]])
    below = torch.tensor([-5.0], dtype=torch.float64)
    assert log_tail(below, close).item() == pytest.approx(log_tail(below, reference).item(), abs=2)


def references(dtype=torch.float64):
    """Scores of which many are tied or nearly so, by name; ascending."""
    certain = -(
        torch.rand(300, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) ** 40
    )  # most near zero
    found = {
        "distinct": draws(300, 0),
        "half of them tied at the top": draws(300, 0).clamp_max(0),
        "half of them tied at the bottom": draws(300, 0).clamp_min(0),
        "two values": (draws(300, 0) > 0).double(),
        "rounded": (2 * draws(300, 0)).round() / 2,
        "nearly tied": torch.cat([certain, certain - 1e-13, certain.float().double()]),
        "pairs a rounding apart": torch.cat([draws(150, 0), draws(150, 0) + 1e-15]),
        "nearly all the same": torch.cat([torch.zeros(299, dtype=torch.float64), draws(1, 0).abs().neg()]),
        "one far away": torch.cat([draws(299, 0), torch.tensor([-1e9], dtype=torch.float64)]),
    }
    return {name: value.sort().values.to(dtype) for name, value in found.items()}


@pytest.mark.parametrize("name", references())
def test_the_function_is_continuous_and_increases_and_agrees_with_the_rank_where_a_score_is_tied(name):
    reference = references()[name]
    low, high = float(reference[0]), float(reference[-1])
    near = reference[reference > reference[-1] - 50 * reference.std()]
    score = torch.cat([torch.linspace(low - 1, high + 1, 4001, dtype=torch.float64), near, near - 1e-9, near + 1e-9])
    score = score.sort().values
    found = log_tail(score, reference)
    assert (found.diff() >= 0).all()
    assert (found <= 0).all()
    distinct = reference.unique()
    exact = conformal_p_value(distinct, reference)
    assert ((log_tail(distinct, reference).exp() - exact).abs() <= 1.001 / (len(reference) + 1)).all()
    if float(distinct.diff().min()) > 1e-6:  # between: as a p-value whose rank is between those of its neighbours
        assert (log_tail(distinct - 1e-12, reference) - log_tail(distinct, reference)).abs().max() < 1e-6


@pytest.mark.parametrize("name", references())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_is_bounded_and_positive_wherever_a_rank_can_rise(name, dtype):
    reference = references(dtype)[name]
    spread = float(reference.std(correction=0))
    top = float(reference[-1])
    far = torch.linspace(float(reference[0]) - 5 * spread, top, 3001, dtype=dtype)
    score = torch.cat([far, reference, torch.nextafter(reference, reference - 1)]).requires_grad_()
    (gradient,) = torch.autograd.grad(log_tail(score, reference).sum(), score)
    assert torch.isfinite(gradient).all()
    assert (gradient > 0).all()
    # log(n) at most over a window of 0.2 spreads, and the slope of the tail
    assert gradient.max() * spread <= math.log(len(reference) + 1) / 0.2 + 1 / 1e-3


def test_the_gradient_is_that_of_the_function_averaged_over_a_window():
    reference = draws(300, 0).sort().values
    score = draws(40, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(log_tail(score, reference).sum(), score)
    reach = 0.1 * reference.std(correction=0)
    grid = torch.linspace(-1, 1, 2001, dtype=torch.float64) * reach
    averaged = lambda at: torch.stack([log_tail(at + step, reference) for step in grid]).mean(0)  # noqa: E731
    numeric = (averaged(score.detach() + 1e-3) - averaged(score.detach() - 1e-3)) / 2e-3
    torch.testing.assert_close(gradient, numeric, rtol=0.02, atol=1e-3)
    with torch.no_grad():
        assert torch.equal(log_tail(score, reference), log_tail(score.detach(), reference))
    assert torch.equal(log_tail(score, reference).detach(), log_tail(score.detach(), reference))


def test_scores_that_are_infinite_have_no_gradient_and_leave_that_of_the_others():
    score = torch.tensor([-torch.inf, 0.0, torch.inf], requires_grad=True)
    found = log_tail(score, draws(100, 0).float().sort().values)
    assert found[0] == -torch.inf
    found[1:].sum().backward()
    assert score.grad[0] == score.grad[2] == 0
    assert score.grad[1] > 0


def test_a_score_in_another_type_than_the_reference_is_taken_in_the_wider_one():
    score, reference = draws(20, 1), draws(100, 0).sort().values
    torch.testing.assert_close(log_tail(score.float(), reference), log_tail(score, reference), rtol=1e-5, atol=1e-5)
    assert log_tail(score, reference.float()).dtype == torch.float64


def test_the_root_mean_is_its_formula():
    p = torch.tensor([[0.04, 0.5, 0.9]], dtype=torch.float64)
    w = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
    assert float(root_mean(p.log(), w.log())) == pytest.approx(-math.log(1 / 0.2 + 0.5 / 0.5**0.5 + 0.25 / 0.9**0.5))


# ---- expected area under the ROC curve


def brute_force(score: list[float], probability: list[float]) -> float:
    """Over all ordered pairs of two inputs."""
    right = weight = 0.0
    for i, (s, p) in enumerate(zip(score, probability, strict=True)):
        for j, (t, q) in enumerate(zip(score, probability, strict=True)):
            if i != j:
                weight += p * (1 - q)
                right += p * (1 - q) * (1.0 if s > t else 0.5 if s == t else 0.0)
    return right / weight


def test_it_is_the_sum_over_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    score = torch.randint(8, (40,), generator=generator).double()  # with ties
    probability = torch.rand(40, generator=generator)
    expected = brute_force(score.tolist(), probability.double().tolist())
    assert abs(float(expected_auroc(score, probability)) - expected) < 1e-12


def test_it_is_the_mean_of_the_area_over_draws_of_the_classes() -> None:
    """A check of what it means: 4,000 draws, four standard errors (a false alarm in about 16,000)."""
    generator = torch.Generator().manual_seed(2)
    score = torch.randn(60, generator=generator)
    probability = torch.sigmoid(score + torch.randn(60, generator=generator))
    positive = (torch.rand(4000, 60, generator=generator) < probability).double()
    negative = 1 - positive
    above = (score[:, None] > score).double()  # no ties
    areas = (positive @ above * negative).sum(1) / (positive.sum(1) * negative.sum(1))
    assert areas[0] == pytest.approx(roc_auc_score(positive[0].numpy(), score.numpy()))
    # The ratio of expectations differs from the expected ratio by a term of the order of 1 / N.
    error = 4 * areas.std() / len(areas) ** 0.5 + 0.005
    assert abs(float(expected_auroc(score, probability)) - float(areas.mean())) < error
