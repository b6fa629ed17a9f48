"""What a classifier takes: one tensor, several, or tensors by name; whatever a loader's batches hold."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from gmm_torch.devices import is_host
from gmm_torch.errors import InputsError
from gmm_torch.features.adapter import NONE, Adapter
from gmm_torch.mixture.density import is_traced
from gmm_torch.mixture.sampling import RowKeys, content_keys

# The first axis of every tensor is the batch's.
Inputs = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]

LABELS = ("labels", "label")  # what data collators call them
NO_LABELS = (
    "labels: expected one for each input; got inputs without: give batches (x, label, ...) or mappings with labels, or "
    "take a score that learns from none"
)
READ_AGAIN = "give a loader that can be read again, unlike a generator"
NO_BATCH = f"expected at least one batch; got none: {READ_AGAIN}"
WITHOUT_CLASS = "leave inputs without a class out"
TO_ADAPT = 'say what it takes with adapter=, such as Adapter(inputs=lambda batch: batch["image"])'
IMAGE_CHANNELS = (1, 3, 4)
MASK = "attention_mask"  # (N, T), zero where a sequence is padded


def check_inputs(x: Any) -> Inputs:
    """The inputs of a batch: a tensor, a tuple or list of tensors, or a mapping of them, labels left out.

    Arrays of NumPy are tensors, too, those of floating point numbers in torch's default precision.

    Raises:
        TypeError: they are something else, or hold something else.
        ValueError: nothing is left, or tensors of several lengths.
    """
    x = _as_tensor(x)
    if isinstance(x, Tensor):
        return x
    if isinstance(x, Mapping):
        x = {str(name): _as_tensor(value) for name, value in x.items() if name not in LABELS}
        named = x
    elif isinstance(x, tuple | list):
        x = tuple(map(_as_tensor, x))
        named = {str(i): value for i, value in enumerate(x)}
    else:
        raise TypeError(
            f"inputs: expected a tensor (N, ...), or several as a tuple or by name; got {type(x).__name__}: make them "
            "tensors, or say how with adapter="
        )
    for name, value in named.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"inputs: expected tensors (N, ...); got {type(value).__name__} for {name!r}: make it one, or "
                "leave it out, in the loader or with adapter="
            )
    shapes = {name: tuple(value.shape) for name, value in named.items()}
    if len({shape[:1] for shape in shapes.values()}) != 1 or () in shapes.values():
        raise ValueError(f"inputs: expected tensors with one row for each of N inputs; got {shapes or 'none'}")
    return x  # type: ignore[no-any-return]


def _as_tensor(x: Any) -> Any:
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "fiub":
        return x
    return torch.as_tensor(x, dtype=torch.get_default_dtype() if x.dtype.kind == "f" else None)


def inputs_of(batch: Any, adapter: Adapter = NONE) -> Inputs:
    """The inputs of a loader's batch: x or (x, ...), or a mapping with or without labels; or what the adapter says.

    Raises:
        TypeError, ValueError: see `check_inputs`.
    """
    if adapter.inputs is not None:
        return check_inputs(adapter.inputs(batch))
    return check_inputs(batch[0] if isinstance(batch, tuple | list) and len(batch) else batch)


def check_loader(loader: Any, what: str = "loader") -> None:
    """Raise where a loader, the argument `what`, is no series of batches, but their inputs, one batch or a data set.

    Raises:
        ValueError: inputs or a batch.
        TypeError: a data set, or nothing to go through.
    """
    if not isinstance(loader, Iterable | Dataset):
        raise TypeError(f"{what}: expected batches x or (x, ...); got {type(loader).__name__}: give a DataLoader")
    if isinstance(loader, Tensor | np.ndarray) and loader.ndim in (2, 4):
        raise ValueError(
            f"{what}: expected batches x or (x, ...); got one tensor {tuple(loader.shape)}: give x.split(100)"
        )
    if isinstance(loader, tuple) and len(loader) > 1 and _are_labels(loader[1], loader[0]):
        raise ValueError(f"{what}: expected batches; got one batch (x, label): give [(x, label)]")
    if isinstance(loader, Dataset) and not isinstance(loader, IterableDataset):
        raise TypeError(
            f"{what}: expected batches; got the data set {type(loader).__name__}: give DataLoader(dataset, 100)"
        )


def _are_labels(value: Any, x: Any) -> bool:
    """True if a tensor has an integer for each of the inputs x."""
    value, x = _as_tensor(value), _as_tensor(x)
    is_integer = isinstance(value, Tensor) and value.dim() == 1 and not value.is_floating_point()
    return is_integer and isinstance(x, Tensor) and len(x) == len(value) and x.dim() > 1


def inputs_given(x: Any, classifier: nn.Module, adapter: Adapter = NONE) -> Inputs:
    """The inputs of what a classifier is asked about: inputs, or a loader's batch (x, label, ...).

    A tuple is a batch if its second entry has an integer for each input and the classifier does not take two.

    Raises:
        TypeError, ValueError: see `check_inputs`; more inputs than the classifier takes.
    """
    if adapter.inputs is not None:
        return inputs_of(x, adapter)
    if not isinstance(x, tuple | list) or len(x) < 2:
        return check_inputs(x)
    try:
        inspect.signature(classifier.forward).bind(*x)
    except TypeError as error:
        if _are_labels(x[1], x[0]) or isinstance(x[0], tuple | list | Mapping):
            return inputs_of(x)
        raise TypeError(
            f"inputs: expected what the classifier takes; got {len(x)} of them ({error}): give torch.stack(x) for a "
            "list of images"
        ) from error
    return check_inputs(x)


def has_labels(batch: Any, adapter: Adapter = NONE) -> bool:
    """True if a loader's batch has something in the place of labels."""
    if adapter.labels is not None:
        return True
    if isinstance(batch, Mapping):
        return any(name in batch for name in LABELS)
    return isinstance(batch, tuple | list) and len(batch) > 1


def labels_of(batch: Any, adapter: Adapter = NONE) -> Tensor:
    """The labels (N,) of a loader's batch (x, label, ...), or of a mapping that has them.

    Raises:
        ValueError: there are none, or they are no integers (N,).
    """
    labels: Any = None
    if adapter.labels is not None:
        labels = adapter.labels(batch)
    elif has_labels(batch):
        labels = next(batch[name] for name in LABELS if name in batch) if isinstance(batch, Mapping) else batch[1]
    labels = _as_tensor(labels)
    if labels is None:
        raise ValueError(NO_LABELS)
    if not isinstance(labels, Tensor):
        got = type(labels).__name__
        raise ValueError(f"labels: expected a tensor (n,) of integers; got {got}: give torch.as_tensor(label)")
    n = n_inputs(inputs_of(batch, adapter))
    if labels.shape != (n,) or labels.is_floating_point():
        raise ValueError(f"labels: expected integers ({n},); got {labels.dtype} of shape {tuple(labels.shape)}")
    return labels


def tensors_of(x: Inputs) -> list[Tensor]:
    """All tensors of the inputs, those with names in the order of these."""
    if isinstance(x, Tensor):
        return [x]
    return [x[name] for name in sorted(x)] if isinstance(x, Mapping) else list(x)


def n_inputs(x: Inputs) -> int:
    """N."""
    return tensors_of(x)[0].shape[0]  # `len` would fix it where a program is exported


def device_of(x: Inputs) -> torch.device:
    """Device of the inputs."""
    return tensors_of(x)[0].device


def changed(x: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """Every tensor changed in the same way."""
    if isinstance(x, Tensor):
        return change(x)
    if isinstance(x, Mapping):
        return {name: change(value) for name, value in x.items()}
    return tuple(change(value) for value in x)


def sole(x: Inputs) -> Tensor | None:
    """The tensor of inputs that are no more than one; None where there are several."""
    tensors = tensors_of(x)
    return tensors[0] if len(tensors) == 1 else None


def like(x: Inputs, tensor: Tensor) -> Inputs:
    """A tensor as the inputs that x is, of which it is the only one."""
    return tensor if isinstance(x, Tensor) else changed(x, lambda _: tensor)


def mask_of(x: Inputs) -> Tensor | None:
    """(N, T) bool, False where a sequence is padded; None where the inputs do not say."""
    mask = x.get(MASK) if isinstance(x, Mapping) else None
    return None if mask is None or mask.dim() != 2 else mask != 0


def run(classifier: nn.Module, x: Inputs) -> Any:
    """What a classifier makes of inputs: those with names are its keyword arguments, or else the one mapping it takes.

    Raises:
        ValueError: it takes inputs of other names, or a tensor and no mapping.
        InputsError: it fails on a tensor that looks like another than it was meant for.
    """
    if isinstance(x, Tensor):
        if torch.compiler.is_compiling():
            return classifier(x)
        try:
            return classifier(x)
        except (torch.OutOfMemoryError, InputsError):  # the latter of a network inside this one
            raise
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            mended = _mended(x, classifier)
            if mended is None:
                raise
            raise InputsError(
                f"inputs: expected what the classifier takes; got {tuple(x.shape)} of {x.dtype} ({error}): {mended}"
            ) from error
    if not isinstance(x, Mapping):
        return classifier(*x)
    signature = inspect.signature(classifier.forward)
    try:
        signature.bind(**x)
    except TypeError as error:
        if [each.annotation in (Tensor, "Tensor", "torch.Tensor") for each in signature.parameters.values()] == [False]:
            return _whole(classifier, x)
        raise ValueError(
            f"inputs: expected the names that the classifier takes, {', '.join(signature.parameters)}; got "
            f"{', '.join(x)}: leave the others out, or {TO_ADAPT}"
        ) from error
    return classifier(**x)


def _whole(classifier: nn.Module, x: Mapping[str, Tensor]) -> Any:
    """What a classifier that does not say what it takes makes of one mapping."""
    if torch.compiler.is_compiling():
        return classifier(x)
    try:
        return classifier(x)
    except (TypeError, AttributeError) as error:  # those of an operation on a tensor
        cause = str(error).partition("\n")[0]  # without all the signatures that a convolution has
        raise ValueError(
            f"inputs: expected what the classifier takes; got a mapping of {', '.join(x)} ({cause}): {TO_ADAPT}"
        ) from error


def _mended(x: Tensor, classifier: nn.Module) -> str | None:
    """What makes the usual mistakes with a tensor good, for inputs that a classifier fails on; None for others."""
    own = next((each.dtype for each in classifier.parameters() if each.is_floating_point()), None)
    if not x.is_floating_point() and x.dim() == 1:
        return "these look like labels, which come second: give batches (x, label)"
    if x.dim() == 4 and x.shape[-1] in IMAGE_CHANNELS and x.shape[1] not in IMAGE_CHANNELS:
        return "the channels come before height and width: give x.permute(0, 3, 1, 2)"
    if x.dtype == torch.uint8:
        return "give floating point, x.float() / 255 for a classifier of images in [0, 1]"
    if x.is_floating_point() and own not in (None, x.dtype):
        return f"give x.to({own})"
    if x.dim() == 3 and x.shape[0] in IMAGE_CHANNELS:
        return "give x[None] if this is one image"
    return None


class InputKeys:
    """Keys of inputs that come in batches; what is drawn for inputs of one width is drawn once."""

    def __init__(self) -> None:
        self._drawn: tuple[int, torch.device] | None = None
        self._row_keys: RowKeys

    def __call__(self, x: Inputs) -> Tensor:
        """(N, 2) int64, which depend on the content of each input alone; what is padded is no content.

        One tensor has its `row_keys`, with a name or without.
        """
        x = check_inputs(x)
        tensor = sole(x)
        if tensor is not None:
            rows = tensor.flatten(1)
            if self._drawn != (rows.shape[1], rows.device):
                self._drawn, self._row_keys = (rows.shape[1], rows.device), RowKeys(rows.shape[1], 0, rows.device)
            return self._row_keys(rows)
        mask = mask_of(x)
        keys: list[Tensor] = []
        for value in tensors_of(x):
            if mask is not None and value.shape[:2] == mask.shape:
                value = value * mask.reshape(mask.shape + (1,) * (value.dim() - 2))
            rows = value.flatten(1) if value.dim() > 1 else value[:, None]
            keys.append(content_keys(rows.to(torch.float64, copy=True).add_(0.0), len(keys)))
        whole = torch.stack(keys, dim=1).sum(1)
        return torch.stack([whole, whole], dim=1)


# Times as large, as small or as far below zero as any numbers of the calibration images are another scale: bytes are
# 255 times as large as numbers up to one, and about a hundred times as large as normalised ones. Below zero counts from
# a tenth of the largest magnitude: interpolation goes less far.
FACTOR = 10
# Images without numbers below zero, where every calibration image had some, are another normalisation and not bright.
SEVERAL = 10
# torch knows no largest of such numbers.
WITHOUT_MAXIMUM = (torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2)
PREPARE = (
    "prepare images as those were, or calibrate on images like these, since good ones may be refused for this alone"
)


class InputFormat(NamedTuple):
    """Of N images (N, C, H, W); empty for inputs that are none, and where nobody knows.

    Attributes:
        size: height and width in words; several, where those of several batches differ.
        numbers: their type in words, likewise.
        extremes: (N, 2), the smallest and the largest of each image, without a graph.
    """

    size: str = ""
    numbers: str = ""
    extremes: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor | None) -> Self:
        """That of an only tensor of inputs; nothing waits for a device."""
        if x is None or x.is_complex() or is_traced():
            return cls()
        if not x.numel():  # says nothing, and leaves what is known of the other batches
            return cls(extremes=torch.zeros(len(x), 2, device=x.device))
        if x.dim() != 4:
            return cls()
        height, width = x.shape[2:]
        values = x.detach()
        if x.dtype in WITHOUT_MAXIMUM:
            values = values.float()
        # Ten times as fast as `aminmax`; whatever the memory format, nothing is copied.
        extremes = torch.stack([values.amin((1, 2, 3)).float(), values.amax((1, 2, 3)).float()], dim=1)
        return cls(f"{height} x {width} pixels", "floating point" if x.is_floating_point() else "integers", extremes)


class KnownFormat(NamedTuple):
    """What is remembered of the calibration images; empty where they were none, or do not agree.

    Attributes:
        size, numbers: as in `InputFormat`.
        smallest, largest: the least and the greatest of those numbers of the images; none where they are unknown.
    """

    size: str = ""
    numbers: str = ""
    smallest: tuple[float, ...] = ()
    largest: tuple[float, ...] = ()

    @classmethod
    def of(cls, found: InputFormat) -> Self:
        """That of all calibration images."""
        size, numbers = (words if "," not in words else "" for words in (found.size, found.numbers))
        if found.extremes is None or not len(found.extremes):
            return cls(size, numbers)
        bounds = torch.stack([found.extremes.amin(0), found.extremes.amax(0)], dim=1).tolist()
        smallest, largest = map(tuple, bounds if all(map(math.isfinite, chain(*bounds))) else ((), ()))
        return cls(size, numbers, smallest, largest)

    def differences(self, found: InputFormat) -> dict[str, tuple[str, str]]:
        """By kind, what the calibration images had and others have; values are read where they are on the host."""
        pairs = {"size": (self.size, found.size), "numbers": (self.numbers, found.numbers)}
        other = {kind: pair for kind, pair in pairs.items() if all(pair) and pair[0] != pair[1]}
        values = found.extremes
        if self.largest and values is not None and _is_readable(values) and len(values):
            values = torch.nan_to_num(values, 0.0, 0.0, 0.0)
            low, high = float(values[:, 0].min()), float(values[:, 1].max())
            if expected := self._other_scale(low, high, len(values)):
                other["scale"] = expected, f"numbers from {low:.3g} to {high:.3g}"
        return other

    def _other_scale(self, low: float, high: float, n: int) -> str:
        """What to expect in place of n images with numbers from `low` to `high`; nothing where these will do."""
        magnitude, found = max(self.largest[1], -self.smallest[0]), max(high, -low)
        least = max(self.largest[0], -self.smallest[1])  # no image has a lower magnitude
        expected = f"numbers from {self.smallest[0]:.3g} to {self.largest[1]:.3g}"
        if found > FACTOR * magnitude or low < min(FACTOR * self.smallest[0], -magnitude / FACTOR):
            return expected
        if 0 < found < least / FACTOR:
            return f"{expected}, in every image some of at least {least:.3g}"
        if n >= SEVERAL and high > 0 <= low and self.smallest[1] < -magnitude / FACTOR:
            return f"{expected}, in every image some below zero"
        return ""


def _is_readable(values: Tensor) -> bool:
    """Whether values are there, and no device has to be waited for; a stand-in of a tracer holds none."""
    return is_host(values.device) and type(values).__torch_dispatch__ is Tensor.__torch_dispatch__


def warning_of(differences: dict[str, tuple[str, str]]) -> str:
    """What to say of inputs that look other than the calibration images.

    Example:
        >>> warning_of({"size": ("8 x 8 pixels", "16 x 16 pixels")}).partition(":")[2].partition(":")[0]
        ' expected 8 x 8 pixels, as of the calibration images; got 16 x 16 pixels'
    """
    expected, got = (", ".join(words) for words in zip(*differences.values(), strict=True))
    return f"inputs: expected {expected}, as of the calibration images; got {got}: {PREPARE}"
