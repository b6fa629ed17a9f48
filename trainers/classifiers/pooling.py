"""Global average pooling as a module, so that a forward hook can stand on it."""

from torch import Tensor, nn


class GlobalAveragePool(nn.Module):
    """Mean of a feature map over its positions.

    A plain mean where `nn.AdaptiveAvgPool2d` would do, because the backward pass of the latter is not
    deterministic on CUDA.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (N, C, H, W) to features (N, C)."""
        return x.mean(dim=(2, 3))
