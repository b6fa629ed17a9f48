"""Evasion rate against the perturbation budget."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gmm_torch.evaluation.rates import interval
from trainers.attacks.adaptive.search import AdaptiveAttack
from trainers.attacks.adaptive.threat_model import ThreatModel
from trainers.data.progress import with_progress

UNRESTRICTED = 1.0  # every image is within this budget of every other


@dataclass(frozen=True)
class Point:
    """Evasion within one budget."""

    epsilon: float  # largest change of a pixel value, in [0, 1]
    n: int  # images attacked
    n_evaded: int  # of them wrong and accepted within this budget or a smaller one
    n_lost: int  # of those how many this budget's own search did not find: a sign of a weak search
    rate: float  # n_evaded / n
    interval: tuple[float, float]  # of the rate (Clopper and Pearson 1934)


@dataclass(frozen=True)
class Curve:
    """What one attack achieves against one defence, or several joined: an image counts if any of them evades."""

    defence: str  # "none", or a detector's name
    attack: str
    epsilons: tuple[float, ...]  # budgets, ascending
    found: Tensor  # (E, N) bool, the images that each budget's own search found
    unrestricted: float | None = None  # share that evade where every change is allowed; None where that was not tried
    seconds: float = 0.0  # of all searches

    @cached_property
    def evaded(self) -> Tensor:
        """(E, N) bool: found within this budget or a smaller one, whose images this budget allows too."""
        return self.found.int().cummax(0).values.bool()

    def points(self) -> list[Point]:
        """One a budget."""
        n = self.found.shape[1]
        rows = zip(self.epsilons, self.evaded.sum(1).tolist(), (self.evaded & ~self.found).sum(1).tolist(), strict=True)
        return [Point(e, n, k, lost, k / n if n else 0.0, interval(k, n)) for e, k, lost in rows]

    def summary(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "defence": self.defence,
            "attack": self.attack,
            "unrestricted": self.unrestricted,
            "seconds": self.seconds,
            "points": [{**asdict(point), "interval": list(point.interval)} for point in self.points()],
        }


def trace(
    defence: str,
    attack: AdaptiveAttack,
    threat: ThreatModel,
    epsilons: Sequence[float],
    *,
    n_unrestricted: int,
    seed: int,
) -> tuple[Curve, Tensor]:
    """Attack the same images within each budget: the curve, and the images, (E, N, C, H, W) on the CPU.

    Args:
        defence: name of the detector.
        threat: its detector frozen.
        epsilons: budgets, ascending.
        n_unrestricted: how many of the images, drawn at random, are also attacked without a budget; 0 for none.
        seed: of the random starts and of that draw.
    """
    start = time.perf_counter()
    found, images = [], []
    for epsilon in with_progress(epsilons, f"{attack.name} on {defence}"):
        changed = attack.search(threat, epsilon, torch.Generator().manual_seed(seed))
        found.append(_evaded(attack, threat, changed).cpu())
        images.append(changed.cpu())
    drawn = torch.randperm(len(threat.images), generator=torch.Generator().manual_seed(seed))
    few = threat.rows(drawn[:n_unrestricted])  # they may be sorted by class
    unrestricted = None
    if len(few.images):
        changed = attack.search(few, UNRESTRICTED, torch.Generator().manual_seed(seed))
        unrestricted = float(_evaded(attack, few, changed).double().mean())
    curve = Curve(defence, attack.name, tuple(epsilons), torch.stack(found), unrestricted, time.perf_counter() - start)
    return curve, torch.stack(images)


def union(curves: Sequence[Curve]) -> Curve:
    """The best of several attacks on the same defence: an image counts if any of them evades with it."""
    first = curves[0]
    known = [curve.unrestricted for curve in curves if curve.unrestricted is not None]
    return Curve(
        first.defence,
        "any",
        first.epsilons,
        torch.stack([curve.found for curve in curves]).any(0),
        max(known) if known else None,
        sum(curve.seconds for curve in curves),
    )


@torch.no_grad()
def _evaded(attack: AdaptiveAttack, threat: ThreatModel, images: Tensor) -> Tensor:
    """(N,) bool, by verdicts made after the fact."""
    verdicts = [threat.detector(x) for x in images.split(attack.batch_size)]
    accept, prediction = (torch.cat([getattr(v, name) for v in verdicts]) for name in ("accept", "prediction"))
    return accept & (prediction != threat.labels)
