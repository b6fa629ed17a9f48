"""Global average pooling as a module, so that a forward hook can stand on it."""

from torch import Tensor, nn


class GlobalAveragePool(nn.Module):
    """Mean over positions; the backward pass of `nn.AdaptiveAvgPool2d` is not deterministic on CUDA."""

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (N, C, H, W) to features (N, C)."""
        return x.mean(dim=(2, 3))
