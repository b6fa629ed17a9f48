"""Features of named layers, caught in the forward pass that computes the logits."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from gmm_torch.checks import check_choice
from gmm_torch.devices import full_precision
from gmm_torch.features.adapter import (
    NONE,
    Adapter,
    as_written,
    check_network,
    logits_of,
    of_this_thread,
    understood,
    unwrapped,
    watched,
)
from gmm_torch.features.augmentations import check_views, passes
from gmm_torch.features.features import Features
from gmm_torch.features.inputs import (
    InputFormat,
    Inputs,
    check_inputs,
    device_of,
    like,
    mask_of,
    n_inputs,
    run,
    sole,
    tensors_of,
)
from gmm_torch.features.layers import FINDERS, PENULTIMATE, check_names
from gmm_torch.features.modes import describe, evaluating, widen
from gmm_torch.features.places import (
    STATISTICS,
    Place,
    check_tokens,
    is_rows,
    module_at,
    parse,
    pool,
    statistics,
    tensors,
    tokens_at,
)


class FeatureExtractor(nn.Module):
    """A classifier that also gives pooled activations of some of its layers, for one or more views of its input.

    Layers are named as in `classifier.named_modules()`; a name stands for the layer's output, a name followed by
    `:input` for its input; `gmm_torch.features.places` has the rest. Nothing of the classifier is changed;
    the hooks live for one forward pass. What `DataParallel`, `DistributedDataParallel` or `torch.compile` wrap runs
    by itself, on one device and as it was written, and its layers have the names that they have there.

    Args:
        classifier: any module from a batch to logits (N, C), or to something that has them as `logits`.
        layers: names; or "penultimate", the input of the last linear layer to run, "stages", the last layer at each of
            the last three resolutions, or "depths", the stages and two places within each of the last two. These
            are found at the first forward pass.
        pooling: "mean", "maximum" or "moments"; see `gmm_torch.features.places`.
        views: names of views, the first "identity"; see `gmm_torch.features.augmentations`. Each is
            one more input to the classifier.
        reads: layers to catch, and the number of views of each, from the first; see `Score.reads`.
            Others are not caught, but for the last layer where none is wanted. All by default.
        adapter: from what the classifier returns to logits; its other parts are for those who have batches.

    Raises:
        ValueError: an unknown layer, pooling or view; the message lists the known ones.
        TypeError: the classifier is no module.
    """

    def __init__(
        self,
        classifier: nn.Module,
        layers: Sequence[str] | str | None = None,
        *,
        pooling: str = "mean",
        views: Sequence[str] = ("identity",),
        reads: Callable[[Sequence[str], int], dict[str, int]] = dict.fromkeys,
        adapter: Adapter = NONE,
    ) -> None:
        super().__init__()
        check_network(classifier)
        self.adapter = adapter
        self.classifier = classifier = unwrapped(classifier)
        self.reads = reads
        self._read: tuple[tuple[tuple[str, ...], int], dict[str, int]] = (((), 0), {})
        self.rule = PENULTIMATE if layers is None else layers if isinstance(layers, str) and layers in FINDERS else None
        if self.rule is None:
            check_names(classifier, layers or [])
        self.layers: list[str] = [] if self.rule else list(layers or [])
        self.found_by = "" if self.rule else "named"
        check_choice("pooling", pooling, STATISTICS)
        self.pooling = pooling
        # of the first forward pass and kept from then on: by layer, and the shape of an input that is one tensor
        self.statistics: dict[str, tuple[str, ...]] = {}
        self.input_shape: tuple[int, ...] | None = None
        self.views = tuple(views)
        check_views(self.views)

    def train(self, mode: bool = True) -> Self:
        """Set the extractor's own flag; the classifier's modes are its owner's."""
        self.training = mode
        return self

    def read(self, n_views: int | None = None) -> dict[str, int]:
        """By layer, of how many views, from the first, features are taken; a batch must have found the layers.

        Args:
            n_views: of an input; as many as there are names by default.
        """
        asked = (tuple(self.layers), len(self.views) if n_views is None else n_views)
        if self._read[0] != asked:
            self._read = (asked, self.reads(*asked) or {self.layers[-1]: 1})
        return self._read[1]

    def forward(self, x: Inputs, views: tuple[str, ...] | None = None) -> Features:
        """Features of a batch, with the classifier in evaluation mode.

        Autocast is for the classifier alone: what it gives is made float32 at once (float64 stays), and is pooled so.

        Args:
            x: a tensor (N, ...); several as a tuple, for the classifier's arguments; or a mapping, for its keyword
                arguments, or for the one that it has. Entries for labels are left out, and positions for which
                "attention_mask" (N, T) is zero are not pooled.
            views: names of views for this batch; the extractor's own by default.

        Raises:
            ValueError: the classifier did not give logits of shape (N, C), or probabilities for the first batch, or did
                not run a layer; more views than one of inputs that are no images (N, C, H, W); images of other channels
                than those of the fit.
            TypeError: x is, or holds, something else than tensors.
        """
        x = check_inputs(x)
        views = self.views if views is None else views
        image, n = sole(x), n_inputs(x)
        if len(views) > 1 and (image is None or image.dim() != 4):
            got = ", ".join(str(tuple(value.shape)) for value in tensors_of(x))
            one = image is not None and image.dim() == 3
            raise ValueError(
                f"views: expected images (N, C, H, W) for {', '.join(views[1:])}; got {got}: "
                f"{'give x[None] if this is one image, or ' if one else ''}use views=1 for other inputs"
            )
        self._check_channels(image)
        caught = Activations(of_this_thread)
        logits: list[Tensor] = []
        precision = ""
        with ExitStack() as stack:
            stack.enter_context(evaluating(self.classifier))
            stack.enter_context(as_written(self.classifier))
            stack.enter_context(understood(self.classifier, self.adapter))
            if not self.layers:
                self.layers, self.found_by = FINDERS[str(self.rule)](self.classifier, x)
            n_views = self.read(len(views))
            if len(n_views) < len(self.layers):
                self.layers = list(n_views)
            rows: dict[str, list[Tensor]] = {layer: [] for layer in self.layers}
            for layer in self.layers:
                caught.listen(stack, self.classifier, layer)
            check = None
            if not self.statistics:
                check = stack.enter_context(watched(self.classifier))
                self.input_shape = None if image is None else tuple(image.shape[1:])
            seen = [x] if image is None else [like(x, view) for view in passes(image, views)]
            n_at_once = len(views) // len(seen)
            for first, batch in zip(range(0, len(views), n_at_once), seen, strict=True):
                caught.expect(n_inputs(batch))
                given = logits_of(run(self.classifier, batch))
                if check is not None:
                    check(given)
                missing = [layer for layer in self.layers if layer not in caught.values]
                if missing:
                    raise ValueError(
                        f"layers: {', '.join(missing)} did not run in the classifier's forward pass: name others"
                    )
                if not torch.compiler.is_compiling():
                    check_rows({"": given} | caught.values, n_inputs(batch))
                    precision = describe([given, *caught.values.values()], device_of(x))
                logits.append(widen(given))
                for layer, parts in rows.items():
                    n_wanted = min(n_views[layer] - first, n_at_once)
                    if n_wanted > 0:
                        parts.append(self._row(layer, caught, n_wanted * n, mask_of(x)))
        by_layer = {layer: _by_input(torch.cat(parts), (n_views[layer], n)) for layer, parts in rows.items()}
        by_input = _by_input(torch.cat(logits), (len(views), n))
        return Features(by_input, by_layer, precision=precision, format=InputFormat.of(image))

    def _check_channels(self, image: Tensor | None) -> None:
        """Raise where images have other channels than those of the fit, which a normalisation would spread over all."""
        fitted = self.input_shape
        if image is None or image.dim() != 4 or fitted is None or len(fitted) != 3 or image.shape[1] == fitted[0]:
            return
        gray = ": give x.expand(-1, 3, -1, -1) of gray images" if (image.shape[1], fitted[0]) == (1, 3) else ""
        raise ValueError(
            f"inputs: expected images of {fitted[0]} channels, like those of the fit; got {tuple(image.shape)}{gray}"
        )

    def _row(self, layer: str, caught: "Activations", n: int, mask: Tensor | None) -> Tensor:
        """(n, D), of the first n rows; the first batch decides which statistics: sizes may differ between batches."""
        module, activation = caught.modules[layer], caught.values[layer][:n]
        if layer not in self.statistics and mask is None:
            check_tokens(layer, module, activation)
        values, kept = tokens_at(layer, module, activation, mask)
        names = self.statistics.get(layer) or statistics(self.pooling, values)
        if not torch.compiler.is_compiling():
            self.statistics[layer] = names
        return pooled(values, names, kept)

    def extra_repr(self) -> str:
        """Layers and views, for `repr`."""
        found = ", ".join(self.layers) if self.layers else f"{self.rule}, found at the first batch"
        by = f" ({self.found_by})" if self.layers else ""
        return f"layers: {found}{by}; pooling: {self.pooling}; views: {', '.join(self.views)}"


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


def pooled(values: Tensor, names: tuple[str, ...], kept: Tensor | None = None) -> Tensor:
    """`pool` in full precision: at least float32 from the first sum on."""
    with full_precision(values.device):
        return pool(widen(values), names, kept)


class Activations:
    """Activations of layers (N, ...), as the modules give them, with hooks that bring them.

    Hooks are made by `heard`: of the passes `of_this_thread`, lest another's be taken for the batch; None for all.
    """

    def __init__(self, heard: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None) -> None:
        self.heard = heard
        self.values: dict[str, Tensor] = {}
        self.modules: dict[str, nn.Module] = {}
        self.runs: Counter[str] = Counter()
        self.n = 0

    def listen(self, stack: ExitStack, classifier: nn.Module, layer: str) -> None:
        """Catch what a layer takes or gives until the stack is left."""
        self.modules[layer] = module = module_at(classifier, layer)
        catch = partial(self.catch, layer, parse(layer))
        hook = self.heard(catch) if self.heard else catch
        stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)

    def catch(self, layer: str, place: Place, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """A forward hook, once two arguments are bound; ValueError where there is no tensor of shape (N, ...)."""
        if place.call:
            self.runs[layer] += 1
            if self.runs[layer] != place.call:
                return
        found = tensors((args, kwargs) if place.is_input else output)
        of_rows = [each for each in found if is_rows(each)]
        value = next((each for each in of_rows if each.shape[0] == self.n), of_rows[0] if of_rows else None)
        if value is None:
            got = f"{tuple(found[0].shape)} of {found[0].dtype}" if found else "no tensor"
            raise ValueError(f"layers: {layer!r} gives no numbers of shape (N, ...), but {got}: name another layer")
        self.values[layer] = value

    def expect(self, n: int) -> None:
        """Make ready for a pass of n inputs."""
        self.n = n
        self.values.clear()
        self.runs.clear()
