"""Contingency tables."""

import torch
from torch import Tensor


def class_counts(group: Tensor, label: Tensor, n_groups: int, n_classes: int) -> Tensor:
    """Counts of each class, `label` (N,) int64, in each `group` (N,) int64: (n_groups, n_classes) int64."""
    cells = torch.bincount(group * n_classes + label, minlength=n_groups * n_classes)
    return cells.reshape(n_groups, n_classes)
