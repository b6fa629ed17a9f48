"""Projection of features onto their principal plane."""

import torch
from torch import Tensor


def principal_plane(features: Tensor, fit_rows: Tensor | None = None) -> Tensor:
    """Coordinates in the plane of the two directions in which the features vary most (principal components).

    Args:
        features: (N, D).
        fit_rows: (N,) bool, those that define the plane (the clean test images, so that far outliers don't turn it).

    Returns:
        (N, 2) float64 on the CPU, in the features' unit; the second column is 0 where D = 1. The sign of a
        direction is the one that makes its largest weight positive, so that the picture repeats.
    """
    points = features.detach().cpu().double()
    basis = points if fit_rows is None else points[fit_rows.cpu()]
    mean = basis.mean(0)
    values = torch.linalg.eigh((basis - mean).T @ (basis - mean)).eigenvectors.flip(1)[:, :2]  # (D, 2)
    largest = values.gather(0, values.abs().argmax(0, keepdim=True))  # (1, 2)
    plane = (points - mean) @ (values * largest.sign())
    return torch.nn.functional.pad(plane, (0, 2 - plane.shape[1]))
