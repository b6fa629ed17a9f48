"""A classifier in eval mode, without gradients of its parameters, for the time of an attack."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(classifier: nn.Module) -> Iterator[None]:
    """Hold a module in eval mode without gradients by its parameters, then restore both for each part of it."""
    modes = {module: module.training for module in classifier.modules()}
    wanted = {parameter: parameter.requires_grad for parameter in classifier.parameters()}
    classifier.eval()
    classifier.requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        for parameter, requires_grad in wanted.items():
            parameter.requires_grad_(requires_grad)
