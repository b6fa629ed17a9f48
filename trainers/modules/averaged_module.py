"""Training of a classifier that is the moving average of the one that learns."""

from copy import deepcopy
from itertools import chain
from typing import Any

from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from trainers.modules.classifier_module import ClassifierModule


def average_into(averaged: nn.Module, current: nn.Module, decay: float) -> None:
    """Move the parameters and buffers of a module to decay * averaged + (1 - decay) * current, in place.

    What is not floating point, the counters of batch normalisation, is copied.
    """
    pairs = zip(
        chain(averaged.parameters(), averaged.buffers()), chain(current.parameters(), current.buffers()), strict=True
    )
    smooth = []
    for mine, other in pairs:
        if mine.is_floating_point():
            smooth.append((mine, other))
        else:
            mine.copy_(other)
    if smooth:
        get_ema_multi_avg_fn(decay)(*map(list, zip(*smooth, strict=True)), None)


class AveragedClassifierModule(ClassifierModule):
    """The classifier is an exponential moving average of a student, which is what the optimizer changes.

    After step t: w' = a w' + (1 - a) w, a = min(decay, 1 - 1 / (t + 1)), for the weights and for the running statistics
    of batch normalisation (Cai et al., "Exponential moving average normalization", CVPR 2021). The average is what is
    validated, saved and used.

    Args:
        *args, **options: of `ClassifierModule`; its classifier becomes the average, whose parameters get no gradient
            any more, and the optimizer moves the student's.
        decay: in [0, 1).

    Raises:
        ValueError: if `decay` is out of its range.
    """

    def __init__(self, *args: Any, decay: float = 0.999, **options: Any) -> None:
        super().__init__(*args, **options)
        if not 0 <= decay < 1:
            raise ValueError(f"decay: expected a number in [0, 1); got {decay}")
        # The longer name of the two: of equal parts of a checkpoint, the one under the shortest prefix is loaded.
        self.student_classifier = deepcopy(self.classifier)
        self.classifier.requires_grad_(False)
        self.decay = decay

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take a step, and bring the average along."""
        super().optimizer_step(*args, **kwargs)
        step = self.trainer.global_step + 1  # this one is not counted yet
        average_into(self.classifier, self.student_classifier, min(self.decay, 1 - 1 / (step + 1)))
