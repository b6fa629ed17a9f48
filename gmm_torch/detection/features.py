"""Features of named layers, caught in the forward pass that computes the logits."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from gmm_torch.detection.layers import FINDERS, INPUT, PENULTIMATE, check_names
from gmm_torch.detection.outputs import Outputs
from gmm_torch.detection.pooling import POOLINGS, statistics
from gmm_torch.detection.precision import describe, widen
from gmm_torch.detection.views import check_views, passes
from gmm_torch.em import full_precision


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
    """A classifier that also gives pooled activations of some of its layers, for one or more views of its input.

    Layers are named as in `classifier.named_modules()`; a name stands for the layer's output, a name followed by
    `:input` for its input. Nothing of the classifier is changed; the hooks live for one forward pass.

    Args:
        classifier: any module from a batch to logits (N, C).
        layers: names; or "penultimate", the input of the last linear layer to run, "stages", the last layer at each of
            the last three resolutions, or "depths", the stages and two places within each of the last two. These
            are found at the first forward pass.
        pooling: "mean", "maximum" or "moments"; see `gmm_torch.detection.pooling`.
        views: names of views, the first "identity"; see `gmm_torch.detection.views`. Each is one more input to the
            classifier.

    Raises:
        ValueError: a layer, pooling or view that there is not; the message lists those there are.
    """

    def __init__(
        self,
        classifier: nn.Module,
        layers: Sequence[str] | str | None = None,
        *,
        pooling: str = "mean",
        views: Sequence[str] = ("identity",),
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.rule = PENULTIMATE if layers is None else layers if isinstance(layers, str) and layers in FINDERS else None
        if self.rule is None:
            check_names(classifier, layers or [])
        self.layers: list[str] = [] if self.rule else list(layers or [])
        if pooling not in POOLINGS:
            raise ValueError(f"pooling: expected one of {', '.join(POOLINGS)}; got {pooling!r}")
        self.pooling = pooling
        self.statistics: dict[str, tuple[str, ...]] = {}  # by layer, known after the first forward pass
        self.views = tuple(views)
        check_views(self.views)

    def train(self, mode: bool = True) -> Self:
        """Set the extractor's own flag; the classifier's modes are its owner's."""
        self.training = mode
        return self

    def forward(self, x: Tensor) -> Outputs:
        """Outputs of a batch, with the classifier in evaluation mode.

        Autocast is for the classifier alone: what it gives is made float32 at once (float64 stays), and is pooled so.

        Raises:
            ValueError: the classifier did not give logits of shape (N, C), or did not run a layer; more views than
                one of inputs that are no images (N, C, H, W).
        """
        if len(self.views) > 1 and x.dim() != 4:
            raise ValueError(
                f"views: expected images (N, C, H, W) for {', '.join(self.views[1:])}; got {tuple(x.shape)}: "
                "use views=1 for other inputs"
            )
        caught: dict[str, Tensor] = {}
        logits: list[Tensor] = []
        rows: list[list[Tensor]] = []
        precision = ""
        with ExitStack() as stack:
            stack.enter_context(evaluating(self.classifier))
            if not self.layers:
                self.layers = FINDERS[str(self.rule)](self.classifier, x[:2])
            for layer in self.layers:
                module = self.classifier.get_submodule(layer.removesuffix(INPUT))
                stack.callback(module.register_forward_hook(partial(catch, caught, layer)).remove)
            for batch in passes(x, self.views):
                given = self._checked(self.classifier(batch))
                missing = [layer for layer in self.layers if layer not in caught]
                if missing:
                    raise ValueError(f"layers: {', '.join(missing)} did not run in the classifier's forward pass")
                if not torch.compiler.is_compiling():
                    self.statistics = {layer: statistics(self.pooling, caught[layer]) for layer in self.layers}
                    precision = describe([given, *caught.values()], x.device)
                logits.append(widen(given))
                rows.append([pooled(self.pooling, caught.pop(layer)) for layer in self.layers])
        features = [torch.cat(parts) for parts in zip(*rows, strict=True)]
        shape = (len(self.views), x.shape[0])
        by_layer = {layer: _by_input(each, shape) for layer, each in zip(self.layers, features, strict=True)}
        return Outputs(_by_input(torch.cat(logits), shape), by_layer, precision=precision)

    def _checked(self, logits: Any) -> Tensor:
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"classifier: expected logits of shape (N, C); got {got}: wrap it so that it gives them")
        return logits


def _by_input(rows: Tensor, shape: tuple[int, int]) -> Tensor:
    """(V N, D), view after view, as (N, V, D)."""
    result: Tensor = rows.unflatten(0, shape).transpose(0, 1)
    return result


def pooled(pooling: str, activation: Tensor) -> Tensor:
    """One row of features per input, (N, D), at least float32 from the first sum on."""
    with full_precision(activation.device):
        return POOLINGS[pooling](widen(activation))


def catch(caught: dict[str, Tensor], layer: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """A forward hook that leaves the activation of `layer` in `caught`, once the first two arguments are bound.

    Raises:
        ValueError: the layer gives no tensor of shape (N, ...).
    """
    value = args[0] if layer.endswith(INPUT) else output
    if isinstance(value, tuple | list):
        value = value[0]
    if not isinstance(value, Tensor) or value.dim() < 2:
        raise ValueError(f"layers: {layer!r} gives no tensor of shape (N, ...): name another layer")
    caught[layer] = value
