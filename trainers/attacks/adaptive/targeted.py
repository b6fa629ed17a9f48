"""Attack on the guarded classifier, targeted at real classes."""

import torch
from torch import Tensor

from trainers.attacks.adaptive.guarded import guarded_logits
from trainers.attacks.adaptive.objective import Objective, Scene, lead, likeliest_wrong
from trainers.attacks.adaptive.sight import Sight


class Targeted(Objective):
    """z_t - max_{j != t} z_j over the logits of `Guarded`, t a wrong real class, in restart r the r-th most probable.

    The difference of logits never saturates, unlike the cross entropy (Carlini and Wagner 2017, "Towards evaluating the
    robustness of neural networks", section V). The last logit counts once t leads the others: before, it would draw an
    image that is refused back into its own class.
    """

    def goals(self, scene: Scene, restart: int) -> Tensor:
        """Target classes."""
        classes = likeliest_wrong(scene.outputs.own_logits, scene.labels)
        return classes[:, restart % classes.shape[1]]

    def value(self, scene: Scene, sight: Sight, labels: Tensor, goals: Tensor) -> Tensor:
        """See `Objective`."""
        hit = sight.verdict.prediction == goals
        return torch.where(hit, lead(guarded_logits(sight), goals), lead(sight.logits, goals))
