"""Detector files: safetensors with a JSON description, so that nothing in them can run."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from gmm_torch.errors import FileFormatError
from gmm_torch.features.wrappers import unwrapped_names
from gmm_torch.files import atomic_path

FORMAT = "gmm_torch.detector"
VERSION = 12
AGAIN = "copy it again, or fit and save the detector again"


@dataclass(frozen=True)
class DetectorFile:
    """What a detector file holds."""

    spec: dict[str, Any]  # see `description.py`
    tensors: dict[str, Tensor]  # state of the score, the examples and the calibration, by name


def fingerprint(module: nn.Module, prefix: str = "") -> dict[str, str]:
    """Hashes of a module's state: of its names and shapes ("structure"), and of its values in float32 ("weights").

    A network has the same hashes in `DataParallel`, `DistributedDataParallel` and `torch.compile`. What a quantised one
    keeps beside tensors is part of its structure. With a prefix, such as "net.", they are those of a module that holds
    it alone, by that name.
    """
    structure, weights = hashlib.sha256(), hashlib.sha256()
    names = unwrapped_names(module)
    named = ((prefix + names[name], value) for name, value in module.state_dict().items())
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


def digest(spec: str, tensors: dict[str, Tensor]) -> str:
    """Hash of a description and of tensors on the CPU, contiguous; a file that was damaged has another."""
    found = hashlib.sha256(spec.encode())
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def write_detector(path: str | os.PathLike[str], file: DetectorFile) -> None:
    """Write a detector file, whole or not at all."""
    spec = json.dumps(file.spec)
    tensors = {name: value.detach().cpu().contiguous() for name, value in file.tensors.items()}
    metadata = {"format": FORMAT, "version": str(VERSION), "spec": spec, "sha256": digest(spec, tensors)}
    with atomic_path(Path(path)) as temporary:
        # an OSError says that a disk is full; save_file has its own
        temporary.write_bytes(with_ordered_header(save(tensors, metadata)))


def with_ordered_header(data: bytes) -> bytes:
    """The same safetensors file with the names in its header sorted: the library writes metadata in any order."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors stay aligned
    return len(header).to_bytes(8, "little") + header + data[end:]


def read_detector(path: str | os.PathLike[str]) -> DetectorFile:
    """Read a detector file.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: damaged, not a safetensors file, not a detector, or of another version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"detector file: nothing at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # what a damaged header makes of the reader can be anything
        raise FileFormatError(
            f"detector file: {path} is truncated or no safetensors file ({error}): {AGAIN}"
        ) from error
    if metadata.get("format") != FORMAT:
        raise FileFormatError(f"detector file: {path} holds no detector; write one with FailureDetector.save")
    if metadata.get("version") != str(VERSION):
        raise FileFormatError(
            f"detector file: {path} has format version {metadata.get('version')}, this library reads {VERSION}: "
            "fit and save the detector again"
        )
    if metadata.get("sha256") != digest(metadata.get("spec", ""), tensors):
        raise FileFormatError(f"detector file: {path} is damaged, its content not what was saved: {AGAIN}")
    try:
        spec = json.loads(metadata["spec"])
    except (KeyError, ValueError, RecursionError) as error:
        raise FileFormatError(f"detector file: {path} has a damaged description: {AGAIN}") from error
    return DetectorFile(spec, tensors)


def part_of(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `part.`, without that; all of them for an empty part."""
    prefix = f"{part}." if part else ""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def check_fit(module: nn.Module, tensors: dict[str, Tensor], what: str) -> None:
    """Raise FileFormatError unless tensors are those of a module's state, by name, shape and kind, and finite.

    The module may be on "meta".
    """
    expected = {name: _kind(value) for name, value in module.state_dict().items()}
    given = {name: _kind(value) for name, value in tensors.items()}
    if expected != given:
        names = sorted(name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name))
        raise FileFormatError(f"{what}: tensors missing, unexpected or of another shape: {', '.join(names[:5])}")
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise FileFormatError(f"{what}: {name} has NaN or infinity")


def _kind(value: Tensor) -> tuple[tuple[int, ...], torch.dtype | None]:
    """Shape and type; floating types are as good as each other."""
    return tuple(value.shape), None if value.is_floating_point() else value.dtype
