"""Layers that can't stretch distances by much."""

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def normalise_spectra(network: nn.Module) -> nn.Module:
    """Divide the weight of every convolution and linear layer by its largest singular value, in place.

    That of a convolution is taken of its kernel as a matrix (out_channels, rest), one power iteration a training step
    (Miyato et al. 2018). Such features keep inputs that differ apart, which their density needs (Mukhoti et al. 2023,
    "Deep Deterministic Uncertainty", who allow singular values up to a constant above one).

    Args:
        network: with its weights as they were initialised; weights of an unnormalised network no longer fit.

    Raises:
        ValueError: it has no such layer.
    """
    layers = [module for module in network.modules() if isinstance(module, LAYERS)]
    if not layers:
        raise ValueError(
            f"classifier.spectral_norm: expected a network with a convolution or a linear layer; got "
            f"{type(network).__name__} without: leave spectral_norm out"
        )
    for layer in layers:
        spectral_norm(layer)
    return network
