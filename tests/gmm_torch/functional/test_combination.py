import math

import pytest
import torch
from scipy import stats

from gmm_torch.functional.combination import COMBINATIONS, log_tail
from gmm_torch.functional.p_values import conformal_p_value


def draws(n, seed):
    return torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_inside_the_reference_it_is_the_conformal_p_value_to_a_rank():
    reference, score = draws(500, 0).sort().values, draws(200, 1)
    score = score[(score > reference[0]) & (score < reference[-1])]
    exact = conformal_p_value(score, reference)
    assert ((log_tail(score, reference).exp() - exact).abs() <= 1 / 501 + 1e-12).all()


def test_it_increases_strictly_from_far_below_to_the_largest_reference_and_has_a_gradient_there():
    reference = draws(500, 0).sort().values
    score = torch.linspace(-1000, float(reference[-1]), 5000, dtype=torch.float64, requires_grad=True)
    found = log_tail(score, reference)
    assert (found.diff() > 0).all()
    assert (found <= 0).all()
    (gradient,) = torch.autograd.grad(found.sum(), score)
    assert torch.isfinite(gradient).all()
    assert (gradient[score < reference[0]] > 0).all()


def test_ties_and_a_constant_reference_stay_finite():
    reference = torch.zeros(20)
    found = log_tail(torch.tensor([-1.0, 0.0, 1.0]), reference)
    assert torch.isfinite(found).all()
    assert (found.diff() >= 0).all()


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_combination_never_falls_when_a_p_value_rises(name):
    combine = COMBINATIONS[name]
    p = torch.rand(300, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).clamp(1e-4, 1 - 1e-4)
    log_weights = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64).log()
    base = combine(p.log(), log_weights)
    assert torch.isfinite(base).all()
    for j in range(3):
        raised = p.clone()
        raised[:, j] = (p[:, j] * 1.5).clamp_max(1 - 1e-5)
        assert (combine(raised.log(), log_weights) >= base - 1e-12).all()


def test_with_equal_weights_fisher_and_stouffer_order_inputs_as_scipy_does():
    p = torch.rand(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).clamp(1e-4, 1 - 1e-4)
    for name in ("fisher", "stouffer"):
        ours = COMBINATIONS[name](p.log(), torch.zeros(3, dtype=torch.float64))
        theirs = torch.tensor([stats.combine_pvalues(row, method=name).pvalue for row in p.tolist()])
        assert torch.equal(ours.argsort(), theirs.argsort())


def test_root_mean_minimum_and_harmonic_are_their_formulas():
    p = torch.tensor([[0.04, 0.5, 0.9]], dtype=torch.float64)
    w = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
    found = {name: float(combine(p.log(), w.log())) for name, combine in COMBINATIONS.items()}
    assert found["root_mean"] == pytest.approx(-math.log(1 / 0.2 + 0.5 / 0.5**0.5 + 0.25 / 0.9**0.5))
    assert found["harmonic"] == pytest.approx(-math.log(1 / 0.04 + 0.5 / 0.5 + 0.25 / 0.9))
    assert found["minimum"] == pytest.approx(math.log(0.04))
    assert found["fisher"] == pytest.approx(math.log(0.04) + 0.5 * math.log(0.5) + 0.25 * math.log(0.9))
