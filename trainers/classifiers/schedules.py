"""Learning rate schedules: functions of an optimizer and the number of steps that it will take."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(
    optimizer: Optimizer, total_steps: int, warmup_share: float = 0.0, start_factor: float = 0.04
) -> LambdaLR:
    """Rise linearly to the optimizer's learning rate, then fall to zero along half a cosine.

    A `warmup_share` of 0.3 is the one-cycle policy (Smith, Topin, "Super-convergence", 2018); 0 is cosine
    annealing (Loshchilov, Hutter, "SGDR", 2017). The number of steps is not part of the schedule's state, so
    a run may be resumed with more epochs than it was begun with.

    Args:
        optimizer: its learning rates are the peak.
        total_steps: of the whole training; the schedule is stepped after each.
        warmup_share: share of the steps, in [0, 1), before the peak.
        start_factor: the first learning rate as a share of the peak, in (0, 1]; used when there is a warm-up.

    Raises:
        ValueError: if an argument is out of its range.
    """
    if total_steps < 1:
        raise ValueError(f"total_steps: expected at least 1; got {total_steps}")
    if not 0 <= warmup_share < 1:
        raise ValueError(f"warmup_share: expected a share in [0, 1); got {warmup_share}")
    if not 0 < start_factor <= 1:
        raise ValueError(f"start_factor: expected a factor in (0, 1]; got {start_factor}")
    peak = warmup_share * total_steps

    def factor(step: int) -> float:
        if step < peak:
            return start_factor + (1 - start_factor) * step / peak
        progress = min((step - peak) / (total_steps - peak), 1.0)
        return 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)
