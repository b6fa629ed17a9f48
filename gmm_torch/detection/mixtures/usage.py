"""Whether the components of a score's mixtures are used: a mixture all of whose inputs fall to one is none."""

import math
import warnings
from collections.abc import Mapping

import torch

from gmm_torch.detection.features.outputs import Outputs
from gmm_torch.detection.mixtures.feature_mixture import FeatureMixture
from gmm_torch.errors import ComponentsWarning

LARGEST = 0.9  # share of the inputs in one component from which the others count for nothing


def warn_of_unused_components(models: Mapping[str, FeatureMixture], outputs: Outputs) -> None:
    """Issue a `ComponentsWarning` for each mixture that has nearly all of these inputs in one component.

    Args:
        models: by name.
        outputs: on inputs that the mixtures have not learned from, where there are such: what is learned by heart looks
            used.
    """
    for name, model in models.items():
        k = model.mixture.n_components
        shares = torch.bincount(model.mixture.predict(model.points(outputs)), minlength=k).double()
        shares = (shares / shares.sum()).cpu()
        largest = float(shares.max())
        if k > 1 and largest > LARGEST:
            used = math.exp(-float(torch.special.xlogy(shares, shares).sum()))
            warnings.warn(
                f"{name}: {largest:.0%} of {len(outputs.logits)} inputs fall to one of {k} components, which counts as "
                f"{used:.1f} components in use: the score is still valid, but explanations by component say little; "
                "give more fitting inputs, or choose a smaller n_components",
                ComponentsWarning,
                stacklevel=4,
            )
