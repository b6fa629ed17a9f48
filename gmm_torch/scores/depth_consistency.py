"""Support of earlier layers for the predicted class, given the classifier's certainty."""

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from gmm_torch.features.features import Features, log_odds
from gmm_torch.features.layers import DEPTHS
from gmm_torch.features.projection import Projection
from gmm_torch.features.transforms import SignedRoot, Standardise
from gmm_torch.mixture import GaussianMixture
from gmm_torch.scores.base import N_COMPONENTS, Fitter
from gmm_torch.scores.class_moments import class_moments
from gmm_torch.scores.conditional_consistency import ConditionalConsistency
from gmm_torch.scores.feature_mixture import with_size

MAX_WIDTH = 64  # of the features of a layer: a covariance for each class must stay cheap
MAX_FULL = 100  # classes with one covariance each; more of them share one
PRIOR = 10  # inputs a feature that the pooled covariance counts for in that of each class
REG_COVAR = 1e-2
TEMPERATURES: list[float] = torch.logspace(0, math.log10(32), 21).tolist()


class DepthConsistency(ConditionalConsistency):
    """log P(D <= d | S = s): d the log-odds of the predicted class in the layers, s those in the classifier.

    A mixture with one component for each class that the classifier predicts (no label is used) makes a classifier of
    each layer. d is the mean over the layers of the log-odds of the predicted class in its posterior, s the log-odds in
    the softmax. A second mixture over (s, d) says how low d is for an s like this one. An attack moves the last layers
    further than the earlier ones: the classifier is sure, and the layers before are not.

    The odds of a layer are divided by the temperature at which they predict the classifier's predictions best, since
    Gaussians over many features are too sure of themselves.

    Args: those of `ConditionalConsistency`.
    """

    name = "depth_consistency"
    in_words = "the agreement of the layers"
    min_classes = 2
    default_weights = (0.0, 1 / 8)  # one view has no others to disagree with: the layers take their place
    min_layers = 2
    layers = DEPTHS
    pooling = "moments"

    temperature: Tensor

    def __init__(self, n_components: int = N_COMPONENTS) -> None:
        super().__init__(n_components)
        self.names: list[str] = []
        self.maps = nn.ModuleList()
        self.classes = nn.ModuleList()
        self.register_buffer("temperature", torch.ones(0))

    def reads(self, layers: Sequence[str], n_views: int) -> dict[str, int]:
        return dict.fromkeys(layers, 1)

    def build(self, widths: dict[str, int], n_views: int, n_classes: int) -> Self:
        self.names = list(widths)
        self.maps = nn.ModuleList(
            nn.Sequential(SignedRoot(width), Standardise(width), Projection(width, MAX_WIDTH))
            for width in widths.values()
        )
        kind = "full" if n_classes <= MAX_FULL else "tied"
        self.classes = nn.ModuleList(
            GaussianMixture(n_classes, min(width, MAX_WIDTH), kind) for width in widths.values()
        )
        self.temperature = torch.ones(len(widths))
        return super().build(widths, n_views, n_classes)

    def fit(self, outputs: Features, fitter: Fitter) -> Self:
        """See `Score`; the classes in closed form, so that the fitter has only the last mixture to fit."""
        predicted = outputs.own_logits.argmax(1)
        chosen = []
        for i, (layer, steps) in enumerate(zip(self.names, self.maps, strict=True)):
            points = outputs.layers[layer][:, 0]
            for step in steps:  # type: ignore[attr-defined]
                points = step.fit(points)(points)
            empty: GaussianMixture = self.classes[i]  # type: ignore[assignment]
            classes = self.classes[i] = with_size(empty, empty.n_components, points.shape[1])
            fit_classes(classes, points, predicted)
            joint = log_posterior(classes, points)
            chosen.append(best_temperature(joint, predicted))
        self.temperature = outputs.logits.new_tensor(chosen)
        return super().fit(outputs, fitter)

    def odds(self, outputs: Features) -> Tensor:
        own = outputs.own_logits
        predicted = own.argmax(1)
        depth = []
        for i, layer in enumerate(self.names):
            joint = log_posterior(self.classes[i], self.maps[i](outputs.layers[layer][:, 0]))  # type: ignore[arg-type]
            depth.append(log_odds(joint / self.temperature[i], predicted))
        return torch.stack([log_odds(own, predicted), torch.stack(depth).mean(0)], dim=1)


def log_posterior(mixture: GaussianMixture, points: Tensor) -> Tensor:
    """log P(component | point), (N, K), up to a constant a row.

    Where the components share a covariance, what is left of the joint density is linear in the point: one matrix
    product, in place of N K differences of D numbers.
    """
    if mixture.covariance_type != "tied":
        return mixture.log_joint(points)
    parameters = mixture.parameters_about_location().map(lambda value: value.to(points.dtype))
    means = parameters.means @ parameters.factors["factor"]
    white = (points - mixture.location.to(points)) @ parameters.factors["factor"]
    return torch.addmm(parameters.log_weights - means.square().sum(-1) / 2, white, means.mT)


def best_temperature(logits: Tensor, classes: Tensor) -> float:
    """The entry of `TEMPERATURES` that, dividing logits (N, C), predicts classes (N,) best.

    The loss is convex in the inverse of the temperature, so its least value is found by halving.
    """

    def loss(i: int) -> float:
        return float(nn.functional.cross_entropy(logits / TEMPERATURES[i], classes))

    low, high = 0, len(TEMPERATURES) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if loss(middle) <= loss(middle + 1) else (middle + 1, high)
    return TEMPERATURES[low]


def fit_classes(mixture: GaussianMixture, points: Tensor, classes: Tensor) -> None:
    """Make component c of a mixture the normal distribution of the points of class c, its covariance shrunk.

    S_c = (n_c C_c + m W) / (n_c + m) and a small ridge: C_c the class's own covariance, W that within all classes,
    m = PRIOR * D. A class without points gets the mean of all and W. The mixture is "full" or "tied".
    """
    n_classes, width = mixture.n_components, points.shape[1]
    found = class_moments(points, classes, n_classes, REG_COVAR)
    sizes = torch.bincount(classes, minlength=n_classes)
    counts, covariances = sizes.to(found.means), found.within
    if mixture.covariance_type == "full":
        prior = PRIOR * width
        floor = torch.eye(width).to(found.within) * (REG_COVAR * found.within.diagonal().mean())
        deviation = (points.double() - found.means[classes])[classes.argsort(stable=True)]
        scatter = torch.stack([part.mT @ part for part in deviation.split(sizes.tolist())])
        covariances = (scatter + prior * found.within) / (counts + prior)[:, None, None] + floor
    mixture.set_parameters((counts + 1) / (counts + 1).sum(), found.means, covariances)
