"""Distance to the nearest class (Lee et al. 2018)."""

from typing import Self

import torch
from torch import Tensor

from gmm_torch.features.features import Features
from gmm_torch.mixture import GaussianMixture
from gmm_torch.scores.base import Fitter
from gmm_torch.scores.class_moments import class_moments
from gmm_torch.scores.log_likelihood import LayerMixtures

_ABSENT = 1e-30  # weight of a class that no fitting input had: no explanation names it


class Mahalanobis(LayerMixtures):
    """Minus the sum over the layers of the squared distance to the nearest class mean, in one covariance for all.

    Lee et al. 2018, "A simple unified framework for detecting out-of-distribution samples and adversarial attacks",
    equation 2, without their input perturbation and learned weights. The classes are those that the classifier
    predicts; `labels=True` takes the labels of the loader that the detector is fitted to.

    Args:
        labels: use labels in place of predictions.
        reg_covar: fraction of each feature's variance that is added to it.
        transform: of the features before; see `gmm_torch.features.transforms`. "unit" is Mahalanobis++
            (Mueller and Hein 2025, arXiv:2505.18032): distances between directions, which the norm of the features
            does not decide.
    """

    name = "mahalanobis"
    present: Tensor

    def __init__(self, labels: bool = False, reg_covar: float = 1e-4, transform: str = "none") -> None:
        super().__init__(1, "tied", transform)
        if not reg_covar > 0:
            raise ValueError(f"reg_covar: expected a number > 0; got {reg_covar}")
        self.labels = self.needs_labels = labels
        self.reg_covar = reg_covar
        self.register_buffer("present", torch.ones(0, dtype=torch.bool))

    def build(self, widths: dict[str, int], n_views: int, n_classes: int) -> Self:
        self.present = torch.ones(n_classes, dtype=torch.bool)
        return super().build(widths, n_views, n_classes)

    def make_mixture(self, n_features: int, n_classes: int) -> GaussianMixture:
        """One component a class, all with the same covariance."""
        return GaussianMixture(n_classes, n_features, "tied")

    def fit(self, outputs: Features, fitter: Fitter) -> Self:
        """See `Score`; closed form, so the fitter has nothing to do."""
        self.present = torch.bincount(outputs.classes(self.needs_labels), minlength=len(self.present)) > 0
        return super().fit(outputs, fitter)

    def fit_mixture(
        self, mixture: GaussianMixture, points: Tensor, outputs: Features, fitter: Fitter
    ) -> GaussianMixture:
        found = class_moments(points, outputs.classes(self.needs_labels), mixture.n_components, self.reg_covar)
        weights = self.present.to(found.means).clamp_min(_ABSENT)
        return mixture.set_parameters(weights / weights.sum(), found.means, found.within)

    def forward(self, outputs: Features) -> Tensor:
        """(N,), at most 0."""
        return -torch.stack([distance.amin(1) for distance in self.squared_distances(outputs)]).sum(0)

    def squared_distances(self, outputs: Features) -> list[Tensor]:
        """To each class, of each layer, each (N, C); infinite for a class that no fitting input had."""
        found = (squared_distance(*pair) for pair in self.with_points(self.mixtures, outputs))
        return [distance.masked_fill(~self.present, torch.inf) for distance in found]


def squared_distance(mixture: GaussianMixture, points: Tensor) -> Tensor:
    """Squared Mahalanobis distances of points (N, D) to all components, (N, K); differentiable."""
    parameters = mixture.parameters_about_location().map(lambda value: value.to(points.dtype))
    return mixture.family.squared_distance(points - mixture.location, parameters.means, parameters.factors)
