"""Fixed maps of features before a mixture sees them."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def none(z: Tensor) -> Tensor:
    """The features as they are."""
    return z


def unit(z: Tensor) -> Tensor:
    """Scaled to Euclidean norm one: direction without magnitude."""
    return F.normalize(z, dim=-1)


def signed_root(z: Tensor) -> Tensor:
    """Signed square root: draws the long tails of rectified features in."""
    return z.sign() * (z.abs() + torch.finfo(z.dtype).eps).sqrt()


TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {"none": none, "unit": unit, "signed_root": signed_root}


def check_transform(name: str) -> None:
    """Raise unless there is such a transform."""
    if name not in TRANSFORMS:
        raise ValueError(f"transform: expected one of {', '.join(TRANSFORMS)}; got {name!r}")
