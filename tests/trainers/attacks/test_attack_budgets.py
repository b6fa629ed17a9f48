import warnings

import pytest
from foolbox import attacks as foolbox_attacks

from trainers.attacks import Attack, AttackBudgets
from trainers.attacks.attack_budgets import budget_diagnostics
from trainers.attacks.diagnostics import AttackWarning


def _budgets(epsilons=(0.02, 0.05, 0.2), steps=10, **options):
    method = foolbox_attacks.LinfPGD(steps=steps, rel_stepsize=0.2)
    return AttackBudgets("curve", method, epsilons, n_images=40, **options)


def _run(budgets, classifier, loader, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AttackWarning)
        return [attack.run(classifier, loader, **options) for attack in budgets.attacks]


def test_each_budget_is_an_attack_on_the_same_images(classifier, loader):
    results = _run(_budgets(["5/255", 0.1, 0.2]), classifier, loader, seed=3)
    alone = Attack("curve", foolbox_attacks.LinfPGD(steps=10, rel_stepsize=0.2), 0.1, n_images=40)
    assert [result.epsilon for result in results] == pytest.approx([5 / 255, 0.1, 0.2])
    assert len({tuple(result.attacked.tolist()) for result in results}) == 1
    assert results[1].index.tolist() == alone.run(classifier, loader, seed=3).index.tolist()
    rates = [result.success_rate for result in results]
    assert rates == sorted(rates)
    assert rates[0] < rates[-1]
    for result in results:
        assert result.median_linf <= result.epsilon * (1 + 1e-4)


def test_small_budgets_without_a_success_are_no_reason_to_warn(classifier, loader):
    results = _run(_budgets([1e-6, 0.2]), classifier, loader)
    assert results[0].n_success == 0
    assert budget_diagnostics(results) == []


def test_a_success_rate_that_falls_is_warned_about(classifier, loader):
    class Clumsy(foolbox_attacks.LinfPGD):
        """Loses its way where the budget is large."""

        def run(self, model, inputs, criterion, *, epsilon, **kwargs):
            return super().run(model, inputs, criterion, epsilon=epsilon if epsilon < 0.25 else 1e-6, **kwargs)

    curve = AttackBudgets("clumsy", Clumsy(steps=10, rel_stepsize=0.2), [0.2, 0.3], n_images=40)
    found = budget_diagnostics(_run(curve, classifier, loader))
    assert any("success rate falls from" in sentence for sentence in found)


@pytest.mark.parametrize("epsilons", [[], [0.1], [0.2, 0.1], [0.1, 0.1]])
def test_budgets_must_rise(epsilons):
    with pytest.raises(ValueError, match="attack curve: epsilons: expected at least two, rising"):
        _budgets(epsilons)


def test_a_limit_holds_at_every_budget():
    curve = _budgets()
    curve.limit(7)
    curve.limit(50)
    assert [attack.n_images for attack in curve.attacks] == [7, 7, 7]
