"""Metrics of several attacks together: an image counts as found only if every attack on it is refused."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainers.attacks import AttackResult
from trainers.evaluation.attacks import verdict_facts
from trainers.evaluation.detection_metrics import auroc
from trainers.records.record import Records
from trainers.report.tables.text import BASELINE


def every_attack_metrics(
    results: Mapping[str, AttackResult], successes: Mapping[str, Records], right: Records
) -> dict[str, Any]:
    """An attacker who tries every attack on an image and keeps the one that serves best.

    Granese et al. 2022, "MEAD: a multi-armed approach for evaluation of adversarial examples detectors"
    (arXiv:2206.15415): an attacked image counts as found only if all attacks that changed its class are. Only images
    that every attack was tried on are counted, so an attack on few images makes them few.

    Args:
        results, successes: name -> what the attack left, and records of its successes.
        right: clean images that are classified rightly.

    Returns:
        {} for fewer than two attacks. Else attacks, their names; n_attacked, images that all of them were tried on; n,
        those of them whose class at least one changed; refusal_rate, the share of the n all of whose successes are
        refused, None where n = 0; evasion_rate, the share of the n_attacked that end up wrong and accepted under at
        least one, None where there are none; auroc of the most typical success of each of the n images against the
        right ones, and baselines: name -> auroc; these None where there is nothing to compare.
    """
    if len(results) < 2:
        return {}
    attacked = _common(results)

    def largest(column: str) -> Tensor:
        """Of the successes on each attacked image, (M,) float64; minus infinity where there is none."""
        found = torch.full((len(attacked),), -torch.inf, dtype=torch.float64)
        for name, result in results.items():
            kept = torch.isin(result.index, attacked)
            rows = torch.searchsorted(attacked, result.index[kept])
            found = found.scatter_reduce(0, rows, getattr(successes[name], column)[kept].double(), "amax")
        return found

    accepted = largest("accept")
    changed = accepted >= 0

    ours, softmax = (auroc(getattr(right, name).double(), largest(name)[changed]) for name in ("score", BASELINE))
    return {
        "attacks": list(results),
        "n_attacked": len(attacked),
        "n": int(changed.sum()),
        **verdict_facts(accepted[changed] > 0, len(attacked)),
        "auroc": ours,
        "baselines": {BASELINE: {"auroc": softmax}},
    }


def _common(results: Mapping[str, AttackResult]) -> Tensor:
    """Positions of the images that all attacks were tried on, ascending, (M,)."""
    first, *others = (result.attacked for result in results.values())
    for other in others:
        first = first[torch.isin(first, other)]
    return first.sort().values
