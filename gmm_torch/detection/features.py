"""Features of named layers, caught in the forward pass that computes the logits."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from gmm_torch.detection.layers import FINDERS, INPUT, PENULTIMATE, check_names, first_tensor
from gmm_torch.detection.outputs import Outputs
from gmm_torch.detection.pooling import POOLINGS, channels_first, statistics
from gmm_torch.detection.precision import describe, widen
from gmm_torch.detection.views import check_views, passes
from gmm_torch.devices import full_precision


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


def check_tensor(x: Any) -> Tensor:
    """The inputs of a batch, which must be a tensor.

    Raises:
        TypeError: they are something else.
    """
    if not isinstance(x, Tensor):
        raise TypeError(
            f"inputs: expected a tensor (N, ...); got {type(x).__name__}: give torch.from_numpy(x) for an array, "
            "batch['pixel_values'] or its like for a mapping"
        )
    return x


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
        reads: of which layers, and of how many views of each from the first, features are wanted; see `Score.reads`.
            Others are not caught, but for the last layer where none is wanted. All by default.

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
        reads: Callable[[Sequence[str], int], dict[str, int]] = dict.fromkeys,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.reads = reads
        self._read: tuple[tuple[tuple[str, ...], int], dict[str, int]] = (((), 0), {})
        self.rule = PENULTIMATE if layers is None else layers if isinstance(layers, str) and layers in FINDERS else None
        if self.rule is None:
            check_names(classifier, layers or [])
        self.layers: list[str] = [] if self.rule else list(layers or [])
        self.found_by = "" if self.rule else "named"
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

    def read(self) -> dict[str, int]:
        """By layer, of how many views, from the first, features are taken; a batch must have found the layers."""
        asked = (tuple(self.layers), len(self.views))
        if self._read[0] != asked:
            self._read = (asked, self.reads(*asked) or {self.layers[-1]: 1})
        return self._read[1]

    def forward(self, x: Tensor) -> Outputs:
        """Outputs of a batch, with the classifier in evaluation mode.

        Autocast is for the classifier alone: what it gives is made float32 at once (float64 stays), and is pooled so.

        Raises:
            ValueError: the classifier did not give logits of shape (N, C), or did not run a layer; more views than
                one of inputs that are no images (N, C, H, W).
            TypeError: x is no tensor.
        """
        check_tensor(x)
        if len(self.views) > 1 and x.dim() != 4:
            raise ValueError(
                f"views: expected images (N, C, H, W) for {', '.join(self.views[1:])}; got {tuple(x.shape)}: "
                "use views=1 for other inputs"
            )
        caught: dict[str, Tensor] = {}
        logits: list[Tensor] = []
        precision = ""
        with ExitStack() as stack:
            stack.enter_context(evaluating(self.classifier))
            if not self.layers:
                self.layers, self.found_by = FINDERS[str(self.rule)](self.classifier, x)
            n_views = self.read()
            if len(n_views) < len(self.layers):
                self.layers = list(n_views)
            rows: dict[str, list[Tensor]] = {layer: [] for layer in self.layers}
            for layer in self.layers:
                module = self.classifier.get_submodule(layer.removesuffix(INPUT))
                hook = partial(catch, caught, layer)
                stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
            batches = passes(x, self.views)
            n_at_once = len(self.views) // len(batches)
            for first, batch in zip(range(0, len(self.views), n_at_once), batches, strict=True):
                given = self._checked(self.classifier(batch))
                missing = [layer for layer in self.layers if layer not in caught]
                if missing:
                    raise ValueError(f"layers: {', '.join(missing)} did not run in the classifier's forward pass")
                if not torch.compiler.is_compiling():
                    check_rows({"": given} | caught, len(batch))
                    if first == 0:
                        self.statistics = {layer: statistics(self.pooling, caught[layer]) for layer in self.layers}
                    precision = describe([given, *caught.values()], x.device)
                logits.append(widen(given))
                for layer, parts in rows.items():
                    n_wanted, activation = n_views[layer] - first, caught.pop(layer)
                    if n_wanted > 0:
                        wanted = activation if n_wanted >= n_at_once else activation[: n_wanted * x.shape[0]]
                        parts.append(pooled(self.pooling, wanted))
        by_layer = {layer: _by_input(torch.cat(parts), (n_views[layer], x.shape[0])) for layer, parts in rows.items()}
        return Outputs(_by_input(torch.cat(logits), (len(self.views), x.shape[0])), by_layer, precision=precision)

    def extra_repr(self) -> str:
        """What is looked at, for `repr`."""
        found = ", ".join(self.layers) if self.layers else f"{self.rule}, found at the first batch"
        by = f" ({self.found_by})" if self.layers else ""
        return f"layers: {found}{by}; pooling: {self.pooling}; views: {', '.join(self.views)}"

    def _checked(self, output: Any) -> Tensor:
        logits = output["logits"] if isinstance(output, Mapping) and "logits" in output else output
        if isinstance(logits, Tensor) and (logits.dim() == 1 or (logits.dim() == 2 and logits.shape[1] == 1)):
            raise ValueError(
                f"classifier: expected logits of shape (N, C), C >= 2; got {tuple(logits.shape)}, whose largest is "
                "always class 0: for two classes return torch.stack([torch.zeros_like(z), z], dim=-1), z the logit (N,)"
            )
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"classifier: expected logits of shape (N, C), or a mapping with them as 'logits'; got {got}: wrap it "
                "so that it gives them"
            )
        return logits


def check_rows(values: Mapping[str, Tensor], n: int) -> None:
    """Raise where a layer, or the classifier itself, called "", does not give one row an input."""
    for layer, value in values.items():
        if len(value) != n:
            what = f"layers: {layer!r}" if layer else "classifier"
            raise ValueError(
                f"{what}: expected one row for each of {n} inputs; got shape {tuple(value.shape)}: "
                + ("name a layer whose first axis is the batch" if layer else "wrap it so that it gives logits (N, C)")
            )


def _by_input(rows: Tensor, shape: tuple[int, int]) -> Tensor:
    """(V N, D), view after view, as (N, V, D)."""
    result: Tensor = rows.unflatten(0, shape).transpose(0, 1)
    return result


def pooled(pooling: str, activation: Tensor) -> Tensor:
    """One row of features per input, (N, D), at least float32 from the first sum on."""
    with full_precision(activation.device):
        return POOLINGS[pooling](widen(activation))


def catch(
    caught: dict[str, Tensor], layer: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> None:
    """A forward hook that leaves the activation of `layer`, (N, C, ...), in `caught`, once two arguments are bound.

    Raises:
        ValueError: the layer gives no tensor of shape (N, ...).
    """
    value = first_tensor((args, kwargs) if layer.endswith(INPUT) else output)
    if value is None or value.dim() < 2 or not value.is_floating_point():
        got = "no tensor" if value is None else f"{tuple(value.shape)} of {value.dtype}"
        raise ValueError(f"layers: {layer!r} gives no numbers of shape (N, ...), but {got}: name another layer")
    caught[layer] = channels_first(module, value)
