"""Features of named layers, caught in the forward pass that computes the logits."""

import difflib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from gmm_torch.detection.outputs import Outputs

INPUT = ":input"


def pool(activation: Tensor) -> Tensor:
    """One row of features per input.

    Maps (N, C, H, W) and volumes are averaged over space, sequences (N, T, C) over positions; (N, D) stays.
    """
    if activation.dim() == 2:
        return activation
    if activation.dim() == 3:
        return activation.mean(1)
    return activation.flatten(2).mean(-1)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """`module` in evaluation mode, every submodule's own mode restored afterwards."""
    training = [child for child in module.modules() if child.training]
    for child in training:
        child.training = False
    try:
        yield
    finally:
        for child in training:
            child.training = True


class FeatureExtractor(nn.Module):
    """A classifier that also gives the pooled activations of some of its layers.

    Layers are named as in `classifier.named_modules()`; a name stands for the layer's output, a name followed by
    `:input` for its input. Nothing of the classifier is changed; the hooks live for one forward pass.

    Args:
        classifier: any module from a batch to logits (N, C).
        layers: names, or None for the penultimate layer: the input of the last linear layer to run. Found at the
            first forward pass.

    Raises:
        ValueError: a name that the classifier does not have; the message lists those it has.
    """

    def __init__(self, classifier: nn.Module, layers: Sequence[str] | None = None) -> None:
        super().__init__()
        self.classifier = classifier
        if layers is not None:
            self._check_names(layers)
        self.layers = None if layers is None else list(layers)

    def train(self, mode: bool = True) -> Self:
        """Set the extractor's own flag; the classifier's modes are its owner's."""
        self.training = mode
        return self

    def _check_names(self, layers: Sequence[str]) -> None:
        known = [name for name, _ in self.classifier.named_modules() if name]
        if isinstance(layers, str):
            raise ValueError(f"layers: expected a list of names; got the string {layers!r}: write [{layers!r}]")
        if not layers:
            raise ValueError("layers: expected at least one name, or None for the penultimate layer; got none")
        for layer in layers:
            name = layer.removesuffix(INPUT)
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                raise ValueError(f"layers: the classifier has no layer {name!r}{hint}; it has: {', '.join(known)}")

    def forward(self, x: Tensor) -> Outputs:
        """Logits (N, C) and pooled features of each layer (N, D), with the classifier in evaluation mode.

        Raises:
            ValueError: the classifier did not give logits of shape (N, C), or did not run a layer.
        """
        if self.layers is None:
            self.layers = [self._find_penultimate(x)]
        caught: dict[str, Tensor] = {}
        with ExitStack() as stack:
            stack.enter_context(evaluating(self.classifier))
            for layer in self.layers:
                module = self.classifier.get_submodule(layer.removesuffix(INPUT))
                hook = partial(_catch, caught, layer)
                stack.callback(module.register_forward_hook(hook).remove)
            logits = self.classifier(x)
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"classifier: expected logits of shape (N, C); got {got}: wrap it so that it gives them")
        missing = [layer for layer in self.layers if layer not in caught]
        if missing:
            raise ValueError(f"layers: {', '.join(missing)} did not run in the classifier's forward pass")
        return Outputs(logits, {layer: pool(caught[layer]) for layer in self.layers})

    @torch.no_grad()
    def _find_penultimate(self, x: Tensor) -> str:
        """The input of the last linear layer to run on x."""
        ran: list[str] = []
        with ExitStack() as stack:
            stack.enter_context(evaluating(self.classifier))
            for name, module in self.classifier.named_modules():
                if isinstance(module, nn.Linear) and name:
                    note = partial(_note, ran, name)
                    stack.callback(module.register_forward_hook(note).remove)
            self.classifier(x[:2])
        if not ran:
            known = ", ".join(name for name, _ in self.classifier.named_modules() if name)
            raise ValueError(
                f"layers: the classifier has no linear layer, so no penultimate features are found; name some of: {known}"
            )
        return ran[-1] + INPUT


def _catch(caught: dict[str, Tensor], layer: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    value = args[0] if layer.endswith(INPUT) else output
    if isinstance(value, tuple | list):
        value = value[0]
    if not isinstance(value, Tensor) or value.dim() < 2:
        raise ValueError(f"layers: {layer!r} gives no tensor of shape (N, ...): name another layer")
    caught[layer] = value


def _note(ran: list[str], name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    ran.append(name)
