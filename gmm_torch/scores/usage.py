"""Whether the components of a score's mixtures are used: a mixture all of whose inputs fall to one is none."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from gmm_torch.errors import ComponentsWarning, warn
from gmm_torch.features.features import Features
from gmm_torch.scores.feature_mixture import FeatureMixture

LARGEST = 0.9  # share of the inputs in one component from which the others count for nothing


class Concentration(NamedTuple):
    """Inputs of which nearly all fall to one component."""

    largest: float  # share of that component
    n_used: float  # as how many components in use all count: exp of the entropy of their shares


def concentration(counts: Tensor) -> Concentration | None:
    """Whether nearly all inputs are in one of several components, from their counts (K,); None where not."""
    shares = counts.double().cpu() / max(1, int(counts.sum()))
    largest = float(shares.max())
    if len(shares) < 2 or largest <= LARGEST:
        return None
    return Concentration(largest, math.exp(-float(torch.special.xlogy(shares, shares).sum())))


def warn_of_unused_components(models: Mapping[str, FeatureMixture], outputs: Features) -> None:
    """Issue a `ComponentsWarning` for each mixture that has nearly all of these inputs in one component.

    They are inputs that it has not learned from, where there are such: what is learned by heart looks used.
    """
    for name, model in models.items():
        k = model.mixture.n_components
        if found := concentration(torch.bincount(model.mixture.predict(model.points(outputs)), minlength=k)):
            warn(
                f"{name}: {found.largest:.0%} of {len(outputs.logits)} inputs fall to one of {k} components, which "
                f"counts as {found.n_used:.1f} components in use: the score is still valid, but explanations by "
                "component say little; give more fitting inputs, or choose a smaller n_components",
                ComponentsWarning,
            )
