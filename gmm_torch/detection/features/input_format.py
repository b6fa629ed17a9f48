"""What images look like before a classifier sees them: their size, and the type and magnitude of their numbers."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from gmm_torch.density import is_traced
from gmm_torch.devices import is_host

# Times as large, or as small, as any magnitude of the calibration images is another scale: bytes are 255 times as large
# as numbers up to one, and about a hundred times as large as normalised ones.
FACTOR = 10
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
        magnitude: (N,), the largest of each image, without a graph.
    """

    size: str = ""
    numbers: str = ""
    magnitude: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor | None) -> Self:
        """That of an only tensor of inputs; nothing waits for a device."""
        if x is None or x.is_complex() or is_traced():
            return cls()
        if not x.numel():  # says nothing, and leaves what is known of the other batches
            return cls(magnitude=torch.zeros(len(x), device=x.device))
        if x.dim() != 4:
            return cls()
        height, width = x.shape[2:]
        values = x.detach()
        if x.dtype in WITHOUT_MAXIMUM:
            values = values.float()
        # Ten times as fast as `aminmax`; whatever the memory format, nothing is copied.
        largest, smallest = values.amax((1, 2, 3)).float(), values.amin((1, 2, 3)).float()
        magnitude = torch.maximum(largest.abs(), smallest.abs())
        return cls(f"{height} x {width} pixels", "floating point" if x.is_floating_point() else "integers", magnitude)


class KnownFormat(NamedTuple):
    """What is remembered of the calibration images; empty where they were none, or do not agree.

    Attributes:
        size, numbers: as in `InputFormat`.
        magnitudes: the smallest and the largest of those of the images; none where they are unknown.
    """

    size: str = ""
    numbers: str = ""
    magnitudes: tuple[float, ...] = ()

    @classmethod
    def of(cls, found: InputFormat) -> Self:
        """That of all calibration images."""
        known: tuple[float, ...] = ()
        if found.magnitude is not None and len(found.magnitude):
            known = tuple(torch.stack(found.magnitude.aminmax()).tolist())
        size, numbers = (words if "," not in words else "" for words in (found.size, found.numbers))
        return cls(size, numbers, known if all(map(math.isfinite, known)) else ())

    def differences(self, found: InputFormat) -> dict[str, tuple[str, str]]:
        """By kind, what the calibration images had and others have; values are read where they are on the host."""
        pairs = {"size": (self.size, found.size), "numbers": (self.numbers, found.numbers)}
        other = {kind: pair for kind, pair in pairs.items() if all(pair) and pair[0] != pair[1]}
        values = found.magnitude
        if self.magnitudes and values is not None and _is_readable(values) and len(values):
            low, high = self.magnitudes
            largest = float(torch.nan_to_num(values, 0.0, 0.0).max())
            if largest > FACTOR * high or 0 < largest < low / FACTOR:
                expected = f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"
                other["scale"] = f"largest numbers {expected}", f"largest number {largest:.3g}"
        return other

    def as_json(self) -> dict[str, Any]:
        """As a file holds it."""
        return self._asdict() | {"magnitudes": list(self.magnitudes)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """What `as_json` gave."""
        return cls(str(found["size"]), str(found["numbers"]), tuple(found["magnitudes"]))


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
