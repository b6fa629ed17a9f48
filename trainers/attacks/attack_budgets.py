"""One attack at several perturbation budgets."""

from collections.abc import Sequence
from itertools import pairwise

from foolbox.attacks.base import AttackWithDistance

from trainers.attacks.attack import Attack
from trainers.attacks.diagnostics import result_diagnostics
from trainers.attacks.result import AttackResult

FALL_LIMIT = 0.02
"""By how much the success rate may fall as the budget grows before a warning."""


class AttackBudgets:
    """An attack at several budgets, on the same images: `attacks`, one a budget.

    Args:
        epsilons: budgets; at least two, rising. For what else there is see `Attack`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        name: str,
        method: AttackWithDistance,
        epsilons: Sequence[float | str],
        n_images: int | None = 200,
        batch_size: int = 100,
        black_box: bool = False,
    ) -> None:
        self.name = name
        self.attacks = [Attack(name, method, epsilon, n_images, batch_size, black_box) for epsilon in epsilons]
        values = [attack.epsilon or 0.0 for attack in self.attacks]
        if len(values) < 2 or any(low >= high for low, high in pairwise(values)):
            raise ValueError(f"attack {name}: epsilons: expected at least two, rising; got {list(epsilons)}")

    def limit(self, n_images: int) -> None:
        """Attack at most so many images."""
        for attack in self.attacks:
            attack.limit(n_images)


def budget_diagnostics(results: Sequence[AttackResult]) -> list[str]:
    """Reasons not to trust results of rising budgets: those at the largest, and a success rate that falls.

    Each is a sentence without its full stop.
    """
    found = result_diagnostics(results[-1])
    rates = [result.success_rate for result in results]
    falls = [(high - low, i) for i, (high, low) in enumerate(pairwise(rates))]
    worst, i = max(falls, default=(0.0, 0))
    if worst > FALL_LIMIT:
        found.append(
            f"the success rate falls from {rates[i]:.1%} to {rates[i + 1]:.1%} as epsilon grows from "
            f"{results[i].epsilon:.3g} to {results[i + 1].epsilon:.3g}, although every success at the smaller is one "
            "at the larger: the attack needs more or smaller steps"
        )
    return found
