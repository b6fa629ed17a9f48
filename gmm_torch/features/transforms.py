"""Maps of features before a mixture sees them; those that learn something learn it from fitting inputs alone."""

from typing import ClassVar, Self

import numpy as np
import scipy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmm_torch.mixture.sampling import sample_rows

MAX_ROWS = 20_000  # from which a transform learns, drawn at random
MAX_POWER_ROWS = 2_000  # the same of the power transform, which searches feature by feature
POWER_RANGE = (-2.0, 4.0)  # of exponents: beyond, a few points decide
# Smallest deviation of a feature or direction, relative to the largest: what varies less is noise of the arithmetic.
FLOOR = 1e-3
# Distance from zero within which the signed root is a straight line, about, so that its slope stays bounded.
ROUNDED = 2.0**-23


class Transform(nn.Module):
    """A differentiable map of the last dimension to one of the same width."""

    name: ClassVar[str]  # in configurations and files
    mixes: ClassVar[bool] = False  # whether an output is of more than one feature, so that it has no feature's name

    def __init__(self, width: int) -> None:
        super().__init__()

    def fit(self, z: Tensor) -> Self:
        """Learn from (N, D), where there is something to learn."""
        return self

    def forward(self, z: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        raise NotImplementedError


class Nothing(Transform):
    """The features as they are."""

    name = "none"

    def forward(self, z: Tensor) -> Tensor:
        return z


class Unit(Transform):
    """Scaled to Euclidean norm one: direction without magnitude."""

    name = "unit"

    def forward(self, z: Tensor) -> Tensor:
        return unit(z)


class SignedRoot(Transform):
    """Signed square root: draws the long tails of rectified features in.

    It is sign(z) (sqrt(|z| + e) - sqrt(e)), e = 2^-23 in every type, written without the difference: continuous and
    increasing, with a slope of at most 1 / (2 sqrt(e)).
    """

    name = "signed_root"

    def forward(self, z: Tensor) -> Tensor:
        result: Tensor = z / ((z.abs() + ROUNDED).sqrt() + ROUNDED**0.5)
        return result


class Standardise(Transform):
    """Each feature less its mean, in units of its standard deviation."""

    name = "standardise"
    location: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.register_buffer("location", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def fit(self, z: Tensor) -> Self:
        wide = z[sample_rows(z, MAX_ROWS)].double()
        scale = wide.std(0, correction=0)
        # A feature that is constant in the fitting inputs has no unit of its own.
        floor = (FLOOR * scale.max()).clamp_min(torch.finfo(z.dtype).tiny ** 0.5)
        self.location, self.scale = wide.mean(0).to(z), scale.clamp_min(floor).to(z)
        return self

    def forward(self, z: Tensor) -> Tensor:
        return (z - self.location) / self.scale


class Power(Transform):
    """Each feature made as normal as a power can make it (Yeo and Johnson 2000), then standardised.

    The exponents are the maximum-likelihood ones of `scipy.stats.yeojohnson_normmax`.
    """

    name = "power"
    exponent: Tensor

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.unit = Standardise(width)  # powers are taken of standardised features: the unit must not matter
        self.scale = Standardise(width)
        self.register_buffer("exponent", torch.ones(width))

    def fit(self, z: Tensor) -> Self:
        self.unit.fit(z)
        columns = self.unit(z[sample_rows(z, MAX_POWER_ROWS)]).double().cpu().numpy().T
        found = [scipy.stats.yeojohnson_normmax(column) if np.ptp(column) > 0 else 1.0 for column in columns]
        self.exponent = torch.as_tensor(np.clip(found, *POWER_RANGE)).to(z)
        self.scale.fit(yeo_johnson(self.unit(z), self.exponent))
        return self

    def forward(self, z: Tensor) -> Tensor:
        result: Tensor = self.scale(yeo_johnson(self.unit(z), self.exponent))
        return result


class Whiten(Transform):
    """Principal coordinates, each in units of its standard deviation."""

    name = "whiten"
    mixes = True
    location: Tensor
    basis: Tensor

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.register_buffer("location", torch.zeros(width))
        self.register_buffer("basis", torch.eye(width))

    def fit(self, z: Tensor) -> Self:
        wide = z[sample_rows(z, MAX_ROWS)].double()
        mean = wide.mean(0)
        variance, directions = torch.linalg.eigh((wide - mean).mT @ (wide - mean) / len(wide))
        floor = (FLOOR**2 * variance.max()).clamp_min(torch.finfo(z.dtype).tiny ** 0.5)
        # The sign is a choice: this one repeats.
        sign = directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
        scaled = directions * sign * variance.clamp_min(floor).rsqrt()
        self.location, self.basis = mean.to(z), scaled.flip(1).contiguous().to(z)
        return self

    def forward(self, z: Tensor) -> Tensor:
        return (z - self.location) @ self.basis


TRANSFORMS: dict[str, type[Transform]] = {
    cls.name: cls for cls in (Nothing, Unit, SignedRoot, Standardise, Power, Whiten)
}


def unit(z: Tensor) -> Tensor:
    """Scaled to Euclidean norm one along the last dimension; zero stays zero."""
    return F.normalize(z, dim=-1)


def yeo_johnson(z: Tensor, exponent: Tensor) -> Tensor:
    """Yeo and Johnson 2000, equation 2.1: a power (D,) of 1 + z for z >= 0, its mirror image of 2 - exponent below."""
    positive = box_cox(z.clamp_min(0), exponent)
    negative = -box_cox((-z).clamp_min(0), 2 - exponent)
    return torch.where(z >= 0, positive, negative)


def box_cox(y: Tensor, exponent: Tensor) -> Tensor:
    """((1 + y)^exponent - 1) / exponent for y >= 0, its limit log(1 + y) where the exponent is near zero."""
    small = exponent.abs() < 1e-4
    safe = torch.where(small, torch.ones_like(exponent), exponent)
    log = torch.log1p(y)
    return torch.where(small, log, torch.expm1(safe * log) / safe)
