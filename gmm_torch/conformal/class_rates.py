"""The share of refused inputs in each predicted class; `testing.homogeneity` asks whether it is the same in all."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from gmm_torch.evaluation.binomial import interval


@dataclass(frozen=True)
class ClassRate:
    """The inputs of one predicted class, the share of them that is refused, and its Clopper-Pearson interval."""

    name: int
    n: int
    n_refused: int
    rate: float
    interval: tuple[float, float]


def class_rates(refused: Tensor, prediction: Tensor, confidence: float = 0.95) -> list[ClassRate]:
    """The share of refused inputs, (N,) bool or 0/1, in each class that is predicted, (N,) integers.

    Raises:
        ValueError: shapes.
    """
    if refused.ndim != 1 or len(refused) == 0 or refused.shape != prediction.shape:
        raise ValueError(
            f"refused and prediction: expected one of each per input, shape (N,), N >= 1; got {tuple(refused.shape)} "
            f"and {tuple(prediction.shape)}"
        )
    names, place = np.unique(prediction.detach().cpu().numpy(), return_inverse=True)
    sizes = np.bincount(place)
    counts = np.bincount(place, weights=refused.bool().cpu().numpy()).astype(int)
    return [
        ClassRate(int(name), int(n), int(k), float(k / n), interval(int(k), int(n), confidence))
        for name, n, k in zip(names, sizes, counts, strict=True)
    ]
