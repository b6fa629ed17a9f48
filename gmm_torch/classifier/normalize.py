"""Normalisation as the first layer of the classifier, so that attacks and users work in pixel space."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Shift and scale each channel: (x - mean) / std.

    One-channel images are repeated to as many channels as `mean` has, so that a gray data set can go through
    a network for RGB images.

    Args:
        mean: mean of each channel, in pixel values of [0, 1].
        std: standard deviation of each channel, in the same unit, positive.

    Raises:
        ValueError: if the two have different lengths, are empty or not finite, or a deviation is not
            positive.
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
