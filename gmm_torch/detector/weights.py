"""The weights of a classifier: their hash, and the check that they are those of the calibration."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from gmm_torch.features.adapter import unwrapped_names


def fingerprint(module: nn.Module) -> dict[str, str]:
    """Hashes of a module's state: of its names and shapes ("structure"), and of its values in float32 ("weights").

    A network has the same hashes in `DataParallel`, `DistributedDataParallel` and `torch.compile`. Entries of a
    quantised one that are no tensors are part of its structure.
    """
    structure, weights = hashlib.sha256(), hashlib.sha256()
    names = unwrapped_names(module)
    named = ((names[name], value) for name, value in module.state_dict().items())
    for name, value in sorted(named, key=lambda each: each[0]):
        for part in value if isinstance(value, tuple | list) else (value,):  # packed: a weight and its bias
            if not isinstance(part, Tensor):
                plain = isinstance(part, bool | int | float | str | torch.dtype)
                structure.update(f"{name}{part if plain else type(part).__name__}".encode())
                continue
            structure.update(f"{name}{tuple(part.shape)}".encode())
            exact = (part.dequantize() if part.is_quantized else part).detach().cpu()
            exact = exact.float() if exact.is_floating_point() else exact
            weights.update(name.encode())
            weights.update(exact.contiguous().numpy().tobytes())
    return {"structure": structure.hexdigest()[:32], "weights": weights.hexdigest()[:32]}


class KnownWeights:
    """The hash of a classifier's weights when this was made.

    A check waits for no device unless a tensor was written to or replaced since the last one; then the weights are
    hashed. Writes through `.data` or NumPy are found by an exact check alone. Weights in another type are not compared:
    rounding changes them, see `PrecisionWarning`.
    """

    def __init__(self, classifier: nn.Module) -> None:
        self._hash, self._types = fingerprint(classifier)["weights"], _types(classifier)
        self._mark, self._same = _mark(classifier), True

    def are_of(self, classifier: nn.Module, *, exact: bool = False) -> bool:
        """True if the classifier has these weights now."""
        mark = _mark(classifier)
        if exact or mark != self._mark:
            comparable = _types(classifier) == self._types
            self._mark, self._same = mark, not comparable or fingerprint(classifier)["weights"] == self._hash
        return self._same


def _tensors(classifier: nn.Module) -> Iterator[Tensor]:
    for module in classifier.modules():  # one walk: half the time of `parameters` and `buffers`
        for value in chain(module._parameters.values(), module._buffers.values()):
            if value is not None and value.is_floating_point():
                yield value


def _types(classifier: nn.Module) -> list[torch.dtype]:
    return [value.dtype for value in _tensors(classifier)]


def _mark(classifier: nn.Module) -> list[tuple[int, int, int]]:
    """Identity, memory and number of writes of each tensor.

    Torch counts writes for all but tensors of inference. Tensors of other types, such as quantised ones, have no
    memory address.
    """
    return [
        (
            id(value),
            value.data_ptr() if type(value) in (Tensor, nn.Parameter) else 0,
            0 if value.is_inference() else value._version,
        )
        for value in _tensors(classifier)
    ]


def check_classifier(
    classifier: nn.Module,
    stored: Mapping[str, str],
    layers: Sequence[str],
    preprocessing: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    strict: bool,
) -> None:
    """Raise ValueError unless a classifier is the one that the detector of a file was fitted to.

    Args:
        classifier: to be checked.
        stored: `fingerprint` of the one that it was fitted to.
        layers, preprocessing, path: of the detector, for the message.
        strict: compare weights, and not the structure alone.

    Raises:
        ValueError: another one.
    """
    actual = fingerprint(classifier)
    for part, meaning in (("structure", "layers or shapes"), ("weights", "weights")):
        if actual[part] != stored[part] and (strict or part == "structure"):
            reads = f", which reads {', '.join(layers[:3])}" if part == "structure" else ""
            reads += _other_moments(classifier, preprocessing)
            raise ValueError(
                f"classifier: its {meaning} are not those the detector {path} was fitted to{reads}; load that "
                "classifier's checkpoint, in a module like that of the fit (`with_normalization` makes that of the "
                "command line), or fit and calibrate a detector for this one"
            )


def _other_moments(classifier: nn.Module, preprocessing: Mapping[str, Any]) -> str:
    """Note on a `NormalizedClassifier` that normalises otherwise than at a detector's fit; none for others."""
    normalize = dict(classifier.named_children()).get("normalize")
    for name in ("mean", "std"):
        own, fitted = getattr(normalize, name, None), preprocessing.get(name)
        if isinstance(own, Tensor) and isinstance(fitted, list):
            found = [float(f"{value:.6g}") for value in own.flatten().tolist()]
            if found != fitted:
                return f" (its {name} is {found}, that of the fit {fitted})"
    return ""
