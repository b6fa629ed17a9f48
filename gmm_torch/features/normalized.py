"""A network with its normalisation as the first layer, so that attacks and users work in pixel space."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gmm_torch.features.adapter import NONE, Adapter, logits_of
from gmm_torch.features.inputs import inputs_of, run


class Normalize(nn.Module):
    """Shift and scale each channel: (x - mean) / std, in pixel values of [0, 1].

    One-channel images are repeated to as many channels as `mean` has, so that a gray data set can go through
    a network for RGB images.

    Raises:
        ValueError: if the two have different lengths, are empty or not finite, or a deviation is not positive.
    """

    mean: Tensor  # (C, 1, 1)
    std: Tensor  # (C, 1, 1)

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        mean_, std_ = torch.tensor([*mean], dtype=torch.float32), torch.tensor([*std], dtype=torch.float32)
        if not len(mean_) or len(mean_) != len(std_):
            raise ValueError(
                f"mean and std need one value per image channel, got {len(mean_)} and {len(std_)} values: "
                f"mean={[*mean]}, std={[*std]}"
            )
        if not (mean_.isfinite().all() and std_.isfinite().all() and (std_ > 0).all()):
            raise ValueError(f"mean must be finite and std finite and positive, got mean={[*mean]}, std={[*std]}")
        self.register_buffer("mean", mean_[:, None, None])
        self.register_buffer("std", std_[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) or (N, 1, H, W) in [0, 1] to normalised ones (N, C, H, W).

        Raises:
            ValueError: the images have another number of channels.
        """
        if x.shape[1] not in (1, len(self.mean)):
            raise ValueError(
                f"expected images of {len(self.mean)} channels (N, C, H, W), got shape {tuple(x.shape)}; "
                "give `normalize` one mean and one std per channel of the data"
            )
        return (x - self.mean) / self.std


class NormalizedClassifier(nn.Sequential):
    """`normalize`, then `network`: images (N, channels, height, width) in [0, 1] to logits (N, C).

    What the network calls `logits` in an output with names, as those of transformers do, is taken out of it.

    Args:
        modules: these two by name.
        adapter: from normalised images to what the network takes, and from its output to logits.
    """

    def __init__(self, modules: "OrderedDict[str, nn.Module]", adapter: Adapter = NONE) -> None:
        super().__init__(modules)
        self.adapter = adapter

    def output(self, x: Tensor) -> Any:
        """Output of the network, through the adapter if there is one."""
        found = run(self.get_submodule("network"), inputs_of(self.get_submodule("normalize")(x), self.adapter))
        return found if self.adapter.logits is None else self.adapter.logits(found)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return logits_of(self.output(x))


def with_normalization(
    network: nn.Module, mean: Sequence[float], std: Sequence[float], adapter: Adapter = NONE
) -> NormalizedClassifier:
    """A network as the application judges with it: of images in [0, 1], which are normalised inside.

    It is what a detector that was fitted on the command line is loaded with in Python.

    Args:
        network: with its weights.
        mean, std: of each channel, `data.mean` and `data.std` in the run's `config.yaml`; zeros and ones for null.
        adapter: as `classifier.adapter`.

    Raises:
        ValueError: see `Normalize`.
    """
    return NormalizedClassifier(OrderedDict(normalize=Normalize(mean, std), network=network), adapter)
