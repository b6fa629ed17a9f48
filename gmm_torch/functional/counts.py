"""Contingency tables."""

import torch
from torch import Tensor


def class_counts(group: Tensor, label: Tensor, n_groups: int, n_classes: int) -> Tensor:
    """How often each class occurs in each group.

    Args:
        group: (N,) int64 in [0, n_groups).
        label: (N,) int64 in [0, n_classes).

    Returns:
        (n_groups, n_classes) int64.
    """
    cells = torch.bincount(group * n_classes + label, minlength=n_groups * n_classes)
    return cells.reshape(n_groups, n_classes)
