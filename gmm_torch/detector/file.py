"""The detector's file: safetensors with a checked header in JSON, in which nothing can run."""

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from gmm_torch.detector.plan import Plan
from gmm_torch.errors import FileFormatError
from gmm_torch.features.inputs import KnownFormat
from gmm_torch.features.places import STATISTICS
from gmm_torch.files import atomic_path
from gmm_torch.mixture import GaussianMixture
from gmm_torch.scores.feature_mixture import with_size

FORMAT = "gmm_torch.detector"
VERSION = 13
AGAIN = "copy it again, or fit and save the detector again"
POOLED = {"", *(name for names in STATISTICS.values() for name in names)}  # what channels are pooled to

_Size = Annotated[int, Field(gt=0, le=2**24)]
_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Line = Annotated[str, Field(max_length=100)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Plain = str | bool | int | float


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Named(_Strict):
    """A score or a calibration: its registered name, and its constructor's options; never a class or a path to one."""

    name: str
    options: dict[str, Any]


class Hashes(_Strict):
    """The `fingerprint` of the classifier."""

    structure: str
    weights: str


class Format(_Strict):
    """The `KnownFormat` of the calibration images."""

    size: _Line
    numbers: _Line
    smallest: tuple[_Finite, ...]
    largest: tuple[_Finite, ...]

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        pairs = list(zip(self.smallest, self.largest, strict=True))
        ascending = all(list(each) == sorted(each) for each in (self.smallest, self.largest, *pairs))
        if len(pairs) not in (0, 2) or not ascending or not (self.size + self.numbers).isprintable():
            raise ValueError("expected two smallest numbers below two largest, or none")
        return self


class Header(_Strict):
    """The description of a detector, checked before anything is built from it."""

    layers: Annotated[tuple[str, ...], Field(min_length=1)]
    found_by: str
    statistics: dict[str, tuple[str, ...]]
    input_shape: tuple[_Count, ...] | None
    views: Annotated[tuple[str, ...], Field(min_length=1)]
    widths: dict[str, _Size]
    n_classes: _Size
    score: Named
    calibration: Named
    alpha: Annotated[float, Field(gt=0, lt=1)]
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    precision: str
    format: Format
    preprocessing: dict[str, _Plain | list[_Plain] | tuple[_Plain, ...]]
    class_names: tuple[str, ...]
    n_fitted: _Count
    n_kept: _Count
    classifier: Hashes
    versions: dict[str, str]

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if list(dict.fromkeys(self.layers)) != list(self.widths):
            raise ValueError("widths: expected one for each layer")
        if len(self.class_names) not in (0, self.n_classes):
            raise ValueError(f"class_names: expected {self.n_classes} or none; got {len(self.class_names)}")
        for layer, names in self.statistics.items():
            if not names or len(names) > len(POOLED) or not POOLED.issuperset(names):
                raise ValueError(f"statistics: expected names among {sorted(POOLED)}; got {names}")
            if self.widths.get(layer, 0) % len(names):
                raise ValueError(f"statistics: expected as many as divide the width of {layer}; got {len(names)}")
        return self

    @property
    def plan(self) -> Plan:
        """The entries that a plan has."""
        return Plan(**{name: getattr(self, name) for name in Plan.__dataclass_fields__})

    @property
    def known_format(self) -> KnownFormat:
        """The format of the calibration images as a detector has it."""
        return KnownFormat(**self.format.model_dump())


def write(path: str | os.PathLike[str], header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a detector file, whole or not at all.

    Raises:
        ValueError: an entry of the header that no file can hold.
    """
    try:
        checked = Header.model_validate(header)
    except ValidationError as error:
        found = error.errors()[0]
        entry = ".".join(map(str, found["loc"])) or "detector"
        raise ValueError(
            f"{entry}: expected what a file can hold; got {found['input']!r:.80}: {found['msg']}"
        ) from error
    write_parts(path, checked.model_dump(mode="json"), tensors)


def write_parts(path: str | os.PathLike[str], header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a header, unchecked, and tensors with their hash."""
    words = json.dumps(header)
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {"format": FORMAT, "version": str(VERSION), "spec": words, "sha256": digest(words, kept)}
    with atomic_path(Path(path)) as temporary:
        # an OSError says that a disk is full; save_file has its own
        temporary.write_bytes(_with_ordered_header(save(kept, metadata)))


def read(path: str | os.PathLike[str]) -> tuple[Header, dict[str, Tensor]]:
    """The checked header and the tensors of a detector file.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: damaged, not a safetensors file, not a detector, or of another version.
    """
    words, tensors = read_parts(path)
    try:
        return Header.model_validate_json(words), tensors
    except ValidationError as error:
        found = error.errors()[0]
        where = ".".join(map(str, found["loc"])) or "all"
        raise FileFormatError(
            f"detector file: {path} has a damaged description ({where}: {found['msg']}): {AGAIN}"
        ) from error


def read_parts(path: str | os.PathLike[str]) -> tuple[str, dict[str, Tensor]]:
    """The header, unchecked, and the tensors of a detector file whose hash is right; raises as `read` does."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"detector file: nothing at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # copies: what is mapped dies with the process where someone writes into the file
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
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
    return metadata.get("spec", ""), tensors


def digest(header: str, tensors: dict[str, Tensor]) -> str:
    """Hash of a header and of tensors on the CPU, contiguous; a damaged file has another."""
    found = hashlib.sha256(header.encode())
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _with_ordered_header(data: bytes) -> bytes:
    """The same safetensors file with the names in its header sorted: the library writes metadata in any order."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors stay aligned
    return len(header).to_bytes(8, "little") + header + data[end:]


def part_of(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `part.`, without that."""
    return {name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(f"{part}.")}


def fill(module: nn.Module, tensors: dict[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Assign stored tensors to a module, which may be on "meta": the sizes that it was planned for then cost no memory.

    Mixtures take the stored number of components and features, and so do the tensors in a class's `sized_by_data`.

    Raises:
        FileFormatError: tensors of other names, shapes or kinds than those of the module's state, NaN or infinity.
    """
    for name, part in list(module.named_modules()):
        shapes = {key: value.shape for key, value in (part_of(tensors, name) if name else tensors).items()}
        if isinstance(part, GaussianMixture) and len(size := shapes.get("centred_means", ())) == 2 and min(size):
            module.set_submodule(name, with_size(part, *size))
        for key in getattr(part, "sized_by_data", ()):
            if key in shapes and hasattr(part, key):
                setattr(part, key, getattr(part, key).new_empty(shapes[key]))
    expected = {name: _kind(value) for name, value in module.state_dict().items()}
    given = {name: _kind(value) for name, value in tensors.items()}
    if expected != given:
        names = sorted(name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name))
        listed = ", ".join(names[:5])
        raise FileFormatError(f"detector file: {path}: tensors missing, unexpected or of another shape: {listed}")
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise FileFormatError(f"detector file: {path}: {name} has NaN or infinity")
    module.load_state_dict(tensors, assign=True)


def _kind(value: Tensor) -> tuple[tuple[int, ...], torch.dtype | None]:
    """Shape and type; floating types are as good as each other."""
    return tuple(value.shape), None if value.is_floating_point() else value.dtype
