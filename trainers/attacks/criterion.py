"""The true labels in the criterion of a foolbox attack."""

from typing import Any

import foolbox
from foolbox.attacks.base import get_criterion
from torch import Tensor


def true_labels(criterion: Any) -> Tensor:
    """The classes (N,) that an untargeted attack leads away from; ValueError for the criterion of another attack."""
    found = get_criterion(criterion)
    if not isinstance(found, foolbox.Misclassification):
        raise ValueError(f"expected an untargeted attack, by foolbox.Misclassification; got {found!r}")
    return found.labels.raw
