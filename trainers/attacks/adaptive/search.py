"""Projected gradient search for images that are wrong and accepted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainers.attacks.adaptive.objective import Objective
from trainers.attacks.adaptive.threat_model import ThreatModel, observe


@dataclass(eq=False)
class AdaptiveAttack:
    """Looks for images within a maximum-norm budget that classifier and detector both let pass, knowing both.

    Every image on the way counts: the first that the real verdict accepts and the classifier gets wrong ends the search
    for it. Gradients lead through all views of the detector.

    Attributes:
        name: what tables call it.
        objective: what rises on the way.
        steps: of each restart.
        restarts: the first starts at the clean image, the others at random within the budget.
        step_sizes: first steps as a share of the budget, taken in turn by the restarts; they fall to zero linearly.
        draws: gradients that are averaged, for detectors with random views (Athalye et al. 2018, expectation over
            transformation).
        batch_size: images at once.

    Raises:
        ValueError: a number out of range.
    """

    name: str
    objective: Objective
    steps: int = 40
    restarts: int = 4
    step_sizes: Sequence[float] = (0.25, 0.1)
    draws: int = 1
    batch_size: int = 100

    def __post_init__(self) -> None:
        for key in ("steps", "restarts", "draws", "batch_size"):
            if getattr(self, key) < 1:
                raise ValueError(f"attack {self.name}: {key}: expected at least 1; got {getattr(self, key)}")
        self.step_sizes = tuple(self.step_sizes)
        if not self.step_sizes or not all(size > 0 for size in self.step_sizes):
            raise ValueError(f"attack {self.name}: step_sizes: expected positive numbers; got {list(self.step_sizes)}")

    def settings(self) -> dict[str, Any]:
        """As JSON can hold them."""
        names = ("steps", "restarts", "step_sizes", "draws")
        return {name: getattr(self, name) for name in names}

    def search(self, threat: ThreatModel, epsilon: float, generator: torch.Generator) -> Tensor:
        """Images of the shape of `threat.images`, within the budget and [0, 1]; the clean image where none was found.

        Args:
            threat: its detector frozen (see `frozen`), everything on one device.
            epsilon: largest change of a pixel value.
            generator: of the random starts, on the CPU.
        """
        found = threat.images.clone()
        open_ = torch.arange(len(found), device=found.device)
        for restart in range(self.restarts):
            goals = self.objective.goals(threat, restart)
            left = []
            for rows in open_.split(self.batch_size):
                start = threat.images[rows]
                if restart:
                    noise = torch.empty(start.shape).uniform_(-epsilon, epsilon, generator=generator)
                    start = (start + noise.to(start)).clamp(0, 1)
                size = self.step_sizes[restart % len(self.step_sizes)] * epsilon
                left.append(self._descend(threat, rows, start, goals, epsilon, size, found))
            open_ = torch.cat(left) if left else open_
        return found

    def _descend(
        self, threat: ThreatModel, rows: Tensor, x: Tensor, goals: Tensor, epsilon: float, size: float, found: Tensor
    ) -> Tensor:
        """One restart of some rows; writes what evades into `found` and returns the rows that are left."""
        for step in range(self.steps + 1):
            if not len(rows):
                break
            x = x.detach().requires_grad_()
            with torch.enable_grad():
                observation = observe(threat.detector, x)
            passed = observation.evades(threat.labels[rows])
            found[rows[passed]] = x.detach()[passed]
            if step == self.steps:
                return rows[~passed]
            with torch.enable_grad():
                direction = self.objective.gradient(threat, x, observation, threat.labels[rows], goals[rows])
                for _ in range(self.draws - 1):
                    again = observe(threat.detector, x)
                    direction = direction + self.objective.gradient(threat, x, again, threat.labels[rows], goals[rows])
            clean = threat.images[rows]
            moved = x.detach() + size * (1 - step / self.steps) * direction.nan_to_num(0).sign()
            x = moved.maximum(clean - epsilon).minimum(clean + epsilon).clamp(0, 1)[~passed]
            rows = rows[~passed]
        return rows
