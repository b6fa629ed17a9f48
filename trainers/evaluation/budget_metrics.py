"""What metrics.json says about an attack at one budget."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from trainers.attacks import AttackResult
from trainers.evaluation.detection_metrics import detection_metrics

ATTACK_FACTS = (
    "norm",
    "epsilon",
    "black_box",
    "n_attacked",
    "success_rate",
    "median_l1",
    "median_l2",
    "median_linf",
    "seconds_per_image",
)


def attack_facts(result: AttackResult) -> dict[str, Any]:
    """The attack by itself: its budget, how often it succeeded, by how much it changed images, how long it took.

    Args:
        result: of one attack.

    Returns:
        the keys `ATTACK_FACTS`, see `AttackResult`.
    """
    return {name: getattr(result, name) for name in ATTACK_FACTS}


def verdict_facts(accept: Tensor, n_attacked: int) -> dict[str, float | None]:
    """What became of the successes of an attack that does not know the detector.

    Args:
        accept: (n,) bool, of the successes.
        n_attacked: number of images attacked.

    Returns:
        refusal_rate: the share of the successes that are refused, None without any; evasion_rate: the share of the
        attacked images that end up wrong and accepted, None where none was attacked.
    """
    return {
        "refusal_rate": float((~accept).double().mean()) if len(accept) else None,
        "evasion_rate": float(accept.sum()) / n_attacked if n_attacked else None,
    }


def budget_metrics(
    result: AttackResult,
    good: Tensor,
    failures: Tensor,
    accept: Tensor,
    baselines: Mapping[str, tuple[Tensor, Tensor]],
) -> dict[str, Any]:
    """One point of a sweep.

    Args:
        result: of the attack at one budget.
        good: (N,) scores of clean images that are classified rightly.
        failures: (n,) scores of the successes.
        accept: (n,) bool, of the successes.
        baselines: name -> scores by another method of (the same N images, the same n).

    Returns:
        the keys of `attack_facts` and `verdict_facts`; n, the number of successes; auroc, and baselines: name -> auroc;
        these None where there is nothing to compare.
    """
    both = len(good) > 0 and len(failures) > 0
    return {
        **attack_facts(result),
        **verdict_facts(accept, result.n_attacked),
        "n": result.n_success,
        "auroc": detection_metrics(good, failures)["auroc"] if both else None,
        "baselines": {
            name: {"auroc": detection_metrics(*pair)["auroc"] if both else None} for name, pair in baselines.items()
        },
    }
