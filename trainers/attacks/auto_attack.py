"""AutoAttack and its four parts, from its authors' package."""

from collections.abc import Sequence
from typing import Any

import eagerpy
import foolbox
import torch
from foolbox.attacks.base import FixedEpsilonAttack
from foolbox.distances import l2, linf

from gmm_torch.checks import check_choice
from trainers.attacks.criterion import true_labels

PARTS = ("apgd_ce", "apgd_t", "fab_t", "square")
"""Auto-PGD on the cross entropy; Auto-PGD on the targeted difference of logits ratio; targeted FAB; Square."""

_NORMS = {"linf": ("Linf", linf), "l2": ("L2", l2)}
_FEWEST_CLASSES = {"apgd_t": 4}  # the third and fourth largest logits scale its loss
_MOST_TARGETS = 9


class AutoAttack(FixedEpsilonAttack):
    """Four attacks without parameters to tune, each on the images that those before it left right.

    Source: Croce, Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks", 2020 (APGD, and the ensemble); Croce, Hein, "Minimally distorted adversarial examples with a fast adaptive
    boundary attack", 2020 (FAB); Andriushchenko, Croce, Flammarion, Hein, "Square attack", 2020, which asks for logits
    only. The defaults are those of the ensemble's standard version.

    Args:
        parts: some of `PARTS`, in the order in which they attack.
        norm: "linf" or "l2".
        steps: of the first three.
        queries: of Square, at most.

    Raises:
        ImportError: if the package is not installed.
        ValueError: if an argument is out of its range.
    """

    def __init__(self, parts: Sequence[str] = PARTS, norm: str = "linf", steps: int = 100, queries: int = 5000) -> None:
        try:
            import pyautoattack  # noqa: F401
        except ImportError as error:
            raise ImportError(
                "AutoAttack needs the package pyautoattack: pip install -e '.[attacks]', or leave out the attacks "
                f"{', '.join(PARTS)} and auto_attack"
            ) from error
        unknown = [part for part in parts if part not in PARTS]
        if unknown or not parts:
            raise ValueError(f"parts of AutoAttack: expected some of {', '.join(PARTS)}; got {list(parts)}")
        check_choice("norm of AutoAttack", norm, _NORMS)
        if steps < 1 or queries < 1:
            raise ValueError(f"steps and queries of AutoAttack: expected at least 1; got {steps} and {queries}")
        self.parts = tuple(parts)
        self.norm = norm
        self.steps = steps
        self.queries = queries

    @property
    def distance(self) -> foolbox.distances.LpDistance:
        """Of the norm."""
        return _NORMS[self.norm][1]

    def run(self, model: foolbox.Model, inputs: Any, criterion: Any, *, epsilon: float, **kwargs: Any) -> Any:
        """Attack images, (N, C, H, W) in [0, 1].

        Raises:
            ValueError: if there are too few classes for a part.
        """
        wrapped, restore = eagerpy.astensor_(inputs)
        images, labels = wrapped.raw, true_labels(criterion)
        found = images.clone()
        for part in self.parts:
            logits = model(found)
            right = logits.argmax(dim=-1) == labels
            if not right.any():
                break
            perturb = self._make(part, model, epsilon, logits.shape[-1], images.device)
            found[right] = perturb(images[right].clone(), labels[right].clone()).detach()
        return restore(eagerpy.astensor(found))

    def _make(self, part: str, model: foolbox.Model, epsilon: float, n_classes: int, device: torch.device) -> Any:
        from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
        from pyautoattack.fab_pt import FABAttack_PT
        from pyautoattack.square import SquareAttack

        fewest = _FEWEST_CLASSES.get(part, 2)
        if n_classes < fewest:
            raise ValueError(
                f"{part}: expected at least {fewest} classes; got {n_classes} of the classifier: leave it out"
            )
        targets = min(_MOST_TARGETS, n_classes - 1)
        common: dict[str, Any] = {
            "norm": _NORMS[self.norm][0],
            "eps": epsilon,
            "seed": int(torch.randint(2**31, ())),  # drawn from the generator that `Attack.run` seeds
            "device": device,
            "n_restarts": 1,
        }
        if part == "apgd_ce":
            return APGDAttack(model, n_iter=self.steps, loss="ce", **common).perturb
        if part == "apgd_t":
            return APGDAttack_targeted(model, n_iter=self.steps, n_target_classes=targets, **common).perturb
        if part == "fab_t":
            return FABAttack_PT(model, n_iter=self.steps, targeted=True, n_target_classes=targets, **common).perturb
        return SquareAttack(model, n_queries=self.queries, resc_schedule=False, **common).perturb
