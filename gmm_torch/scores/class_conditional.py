"""Likelihood under one mixture for each class."""

import torch
from torch import Tensor

from gmm_torch.features.features import Features
from gmm_torch.mixture import GaussianMixture
from gmm_torch.mixture.covariance import get_family
from gmm_torch.mixture.covariance.tied import Tied
from gmm_torch.scores.base import Fitter
from gmm_torch.scores.log_likelihood import LayerMixtures

_MIN_POINTS = 10  # of a class, for each of its components; a class with fewer gets the mixture of all inputs


class ClassConditional(LayerMixtures):
    """Sum over the layers of log p(z | c), c the predicted class, with one mixture for each class.

    The classes of the fitting inputs are those that the classifier predicts; `labels=True` takes the labels of the
    loader that the detector is fitted to. It is for comparison: the paper does without labels.

    Args:
        n_components: K for each class.
        covariance_type, transform: see `LayerMixtures`; any type but "tied", since the classes are fitted one by one.
        labels: use labels in place of predictions.
    """

    name = "class_conditional"

    def __init__(
        self, n_components: int = 1, covariance_type: str = "full", transform: str = "none", labels: bool = False
    ) -> None:
        super().__init__(n_components, covariance_type, transform)
        if isinstance(get_family(covariance_type), Tied):
            raise ValueError(
                "covariance_type: expected any but 'tied', since classes are fitted one by one; got "
                f"{covariance_type!r}: take 'full'"
            )
        self.labels = self.needs_labels = labels

    def make_mixture(self, n_features: int, n_classes: int) -> GaussianMixture:
        """The components of all classes, class after class, all classes as probable."""
        return GaussianMixture(n_classes * self.n_components, n_features, self.covariance_type)

    def fit_mixture(
        self, mixture: GaussianMixture, points: Tensor, outputs: Features, fitter: Fitter
    ) -> GaussianMixture:
        classes = outputs.classes(self.needs_labels)
        n_classes = mixture.n_components // self.n_components
        sizes = torch.bincount(classes, minlength=n_classes).tolist()
        large = [n >= _MIN_POINTS * self.n_components for n in sizes]
        pooled = None if all(large) else self._fitted(points, fitter)
        found = (self._fitted(points[classes == c], fitter) if large[c] else pooled for c in range(n_classes))
        parts = [each for each in found if each is not None]
        return mixture.set_parameters(
            torch.cat([each.weights for each in parts]) / n_classes,
            torch.cat([each.means for each in parts]),
            torch.cat([each.covariances for each in parts]),
        )

    def _fitted(self, points: Tensor, fitter: Fitter) -> GaussianMixture:
        mixture = GaussianMixture(self.n_components, points.shape[1], self.covariance_type).to(points)
        fitter(mixture, points)
        return mixture

    def forward(self, outputs: Features) -> Tensor:
        """(N,), in nats, up to a constant."""
        predicted = outputs.own_logits.argmax(1)[:, None]
        joints = (joint.unflatten(1, (-1, self.n_components)) for joint in self.log_joints(outputs))
        return torch.stack([joint.logsumexp(2).gather(1, predicted)[:, 0] for joint in joints]).sum(0)
