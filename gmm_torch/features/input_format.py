"""What images look like before a classifier sees them: their size, and the type and range of their numbers."""

import math
from collections.abc import Mapping
from itertools import chain
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from gmm_torch.devices import is_host
from gmm_torch.mixture.density import is_traced

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

    def as_json(self) -> dict[str, Any]:
        """As a file holds it."""
        return self._asdict() | {"smallest": list(self.smallest), "largest": list(self.largest)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """What `as_json` gave."""
        size, numbers = str(found["size"]), str(found["numbers"])
        return cls(size, numbers, tuple(found["smallest"]), tuple(found["largest"]))


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
