"""Distance to the nearest class, less that to all data (Ren et al. 2021)."""

from typing import Self

import torch
from torch import Tensor, nn

from gmm_torch.features.features import Features
from gmm_torch.mixture import GaussianMixture
from gmm_torch.scores.base import Fitter
from gmm_torch.scores.class_moments import class_moments
from gmm_torch.scores.mahalanobis import Mahalanobis, squared_distance


class RelativeMahalanobis(Mahalanobis):
    """Minus the sum over the layers of d_c - d_0: squared distances to the nearest class and to the mean of all data.

    d_0 uses the covariance of all data. Ren et al. 2021, "A simple fix to Mahalanobis distance for improving near-OOD
    detection", equation 3. Classes are those of `Mahalanobis`.

    Args: those of `Mahalanobis`; the transform "unit" is relative Mahalanobis++.
    """

    name = "relative_mahalanobis"

    def build(self, widths: dict[str, int], n_views: int, n_classes: int) -> Self:
        self.backgrounds = nn.ModuleList(GaussianMixture(1, n_views * width, "tied") for width in widths.values())
        return super().build(widths, n_views, n_classes)

    def fit(self, outputs: Features, fitter: Fitter) -> Self:
        super().fit(outputs, fitter)
        for background, points in self.with_points(self.backgrounds, outputs):
            found = class_moments(points, points.new_zeros(len(points), dtype=torch.long), 1, self.reg_covar)
            background.set_parameters(torch.ones_like(found.means[:, 0]), found.means, found.within)
        return self

    def forward(self, outputs: Features) -> Tensor:
        """(N,)."""
        background = [squared_distance(*pair)[:, 0] for pair in self.with_points(self.backgrounds, outputs)]
        return super().forward(outputs) + torch.stack(background).sum(0)
