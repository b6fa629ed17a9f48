"""What several attacks on the same images do together: an image is found only if every attack on it is."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainers.attacks import AttackResult
from trainers.evaluation.budget_metrics import verdict_facts
from trainers.evaluation.detection_metrics import detection_metrics


def every_attack_metrics(
    results: Mapping[str, AttackResult],
    scores: Mapping[str, Tensor],
    accept: Mapping[str, Tensor],
    good: Tensor,
    baselines: Mapping[str, tuple[Tensor, Mapping[str, Tensor]]],
) -> dict[str, Any]:
    """An attacker who tries every attack on an image and keeps the one that serves best.

    Granese et al. 2022, "MEAD: a multi-armed approach for evaluation of adversarial examples detectors"
    (arXiv:2206.15415): an attacked image counts as found only if all attacks that changed its class are. Only images
    that every attack was tried on are counted, so an attack on few images makes them few.

    Args:
        results: name -> what the attack left.
        scores: name -> (n,) of its successes, higher = more typical.
        accept: name -> (n,) bool, of the same.
        good: (N,) scores of clean images that are classified rightly.
        baselines: name of another method -> its scores of the same N images, and of the successes by attack.

    Returns:
        {} for fewer than two attacks. Else attacks, their names; n_attacked, images that all of them were tried on; n,
        those of them whose class at least one changed; refusal_rate, the share of the n all of whose successes are
        refused, None where n = 0; evasion_rate, the share of the n_attacked that end up wrong and accepted under at
        least one, None where there are none; auroc of the most typical success of each of the n images against the
        good ones, and baselines: name -> auroc; these None where there is nothing to compare.
    """
    if len(results) < 2:
        return {}
    attacked = _common(results)
    accepted = _largest(results, {name: each.double() for name, each in accept.items()}, attacked)
    changed = accepted >= 0
    verdicts = verdict_facts(accepted[changed] > 0, len(attacked))
    found = {"attacks": list(results), "n_attacked": len(attacked), "n": int(changed.sum()), **verdicts}

    def area(clean: Tensor, by_attack: Mapping[str, Tensor]) -> float | None:
        best = _largest(results, by_attack, attacked)[changed]
        return detection_metrics(clean.double(), best)["auroc"] if len(clean) and len(best) else None

    others = {name: {"auroc": area(*pair)} for name, pair in baselines.items()}
    return {**found, "auroc": area(good, scores), "baselines": others}


def _common(results: Mapping[str, AttackResult]) -> Tensor:
    """Positions of the images that all attacks were tried on, ascending, (M,)."""
    first, *others = (result.attacked for result in results.values())
    for other in others:
        first = first[torch.isin(first, other)]
    return first.sort().values


def _largest(results: Mapping[str, AttackResult], values: Mapping[str, Tensor], attacked: Tensor) -> Tensor:
    """The largest value of the successes on each attacked image, (M,) float64; minus infinity where there is none."""
    largest = torch.full((len(attacked),), -torch.inf, dtype=torch.float64)
    for name, result in results.items():
        kept = torch.isin(result.index, attacked)
        rows = torch.searchsorted(attacked, result.index[kept])
        largest = largest.scatter_reduce(0, rows, values[name][kept].double(), "amax")
    return largest
