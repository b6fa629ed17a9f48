"""The first pass over the data: location, scale, and a sample to initialise from."""

import functools
import math
import operator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from gmm_torch.devices import is_host, look
from gmm_torch.distributed import gather_objects, is_distributed
from gmm_torch.mixture.covariance import CovarianceFamily
from gmm_torch.mixture.parameters import Parameters
from gmm_torch.mixture.sampling import RowKeys

__all__ = ["DataSummary", "Standardisation", "check_range", "sample_capacity"]

# Smallest share of a sample in separate cells for which the cells' keys are good enough to draw it.
_APART = 0.9
_LAST_KEY = torch.iinfo(torch.int64).max  # of rows that are no points


@dataclass(frozen=True)
class Standardisation:
    """The affine map z = (x - location) / scale to EM's coordinates; all attributes are (D,) float64.

    A mixture is affine-equivariant, so the fit is the same and the parameters map back exactly. The location is a
    round number and the scale a power of two: both are exact in float32 and neither depends on the last digits of a
    sum (whose order differs between one process and two).

    A constant feature gets the scale of a typical other one. Its variance after the map counts as the geometric mean of
    the others, or one if all are constant.
    """

    location: Tensor
    scale: Tensor
    unit: Tensor  # the variance of the data after the map

    def apply(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Standardised x (n, D) in `dtype`; the subtraction is in the wider of x's type and float32."""
        return self.columns(x, dtype).mT

    def columns(self, x: Tensor, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
        """`apply`, stored feature by feature: (D, n), contiguous; written into `out` if given."""
        wide = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
        columns = out if out is not None and wide == dtype else x.new_empty(x.shape[::-1], dtype=wide)
        turned, location = x.mT.to(wide), self.location.to(wide)[:, None]
        if is_host(x.device) and columns.stride(-1) == 1:
            # A copy transposes block by block; a transposed operand of a computation would miss the cache.
            columns.copy_(turned).sub_(location)
        else:
            torch.sub(turned, location, out=columns)
        columns.mul_(self.scale.reciprocal().to(wide)[:, None])  # exact: a power of two
        if out is None:
            return columns.to(dtype)
        return columns if columns is out else out.copy_(columns)

    def undo(self, family: CovarianceFamily, parameters: Parameters) -> Parameters:
        """Map parameters of standardised points to raw ones, with means relative to the location."""
        factors = family.rescale(parameters.factors, self.scale)
        return Parameters(parameters.log_weights, parameters.means * self.scale, factors)

    def parameters(self, family: CovarianceFamily, raw: Parameters, location: Tensor) -> Parameters:
        """The inverse of `undo`, for means relative to any `location` (D,)."""
        means = (raw.means.double() + (location.double() - self.location)) / self.scale
        factors = family.rescale({name: value.double() for name, value in raw.factors.items()}, 1 / self.scale)
        return Parameters(raw.log_weights.double(), means, factors)


@dataclass(frozen=True)
class DataSummary:
    """Mergeable summary of weighted points; `+` merges two.

    It keeps distinct points, in the order of their exact keys: the `capacity` with the smallest cell keys, and half as
    many with the smallest exact keys. On an accelerator, rows of weight zero may follow, because only the device knows
    the number of points.
    """

    rows: Tensor  # () int64, number of rows, including those of zero weight and those that are not finite
    n_bad: Tensor  # () int64, rows that are not finite; they enter nothing else, and the end of the pass must raise
    first_bad: Tensor  # () int64, position of the first of them in the order of the merges; `rows` or more if none
    count: Tensor  # () int64, number of points of positive weight
    total_weight: Tensor  # () float64
    mean: Tensor  # (D,) float64
    deviation: Tensor  # (D,) float64, from the mean; its square would overflow float64 for data beyond 1e154
    largest: Tensor  # () float64, the largest absolute value
    kept: Tensor  # (m, D)
    kept_weight: Tensor  # (m,), summed over equal points
    keys: Tensor  # (m, 2), of the cell and exact, see `row_keys`
    capacity: int  # the largest number of points of a sample

    @classmethod
    def of(
        cls, x: Tensor, weight: Tensor | None, capacity: int, row_keys: RowKeys, last_keys: Tensor | None = None
    ) -> "DataSummary":
        """Summary of x (n, D) with weights (n,) >= 0 or None for ones; the host does not wait for an accelerator.

        Points of zero weight are left out. `last_keys` of the summary that the result will be merged with let it drop
        the points that the merge would not keep.
        """
        rows = torch.full((), len(x), device=x.device)
        # x - x is zero unless x is not finite; sums of rows are much faster than `all`.
        finite = (x - x).sum(1) == 0
        position = torch.arange(len(x), device=x.device)
        first_bad = position.masked_fill(finite, len(x)).amin() if len(x) else rows
        counts = finite if weight is None else finite & (weight > 0)
        count = counts.sum()
        if is_host(x.device) and not bool(counts.all()):
            x, weight, counts = x[counts], None if weight is None else weight[counts], counts[counts]
        w = x.new_ones(len(x), dtype=torch.float64) if weight is None else weight.double()
        # Centring on a point first keeps the digits of data far from the origin.
        anchor = x[0].double() if len(x) else x.new_zeros(x.shape[1], dtype=torch.float64)
        if not is_host(x.device) and len(x):  # points left out become the anchor, with weight zero
            first = position.masked_fill(~counts, len(x)).amin().clamp_max(len(x) - 1)
            anchor = torch.where(counts.any(), x.index_select(0, first[None])[0], 0).double()
            x, w = torch.where(counts[:, None], x, anchor.to(x.dtype)), torch.where(counts, w, 0)
        total_weight = w.sum()
        low, high = (x.amin(0).double(), x.amax(0).double()) if len(x) else (anchor, anchor)
        largest = torch.maximum(high, -low).amax()
        # In units of the largest deviation (a power of two) no square overflows, and not all underflow.
        unit = torch.exp2(torch.maximum(high - anchor, anchor - low).log2().ceil())
        unit = torch.where((unit > 0) & torch.isfinite(unit), unit, torch.ones_like(unit))
        relative = x.to(torch.float64, copy=True).sub_(anchor).div_(unit)  # mixing types would be slow
        safe_weight = total_weight.clamp_min(torch.finfo(torch.float64).tiny)
        shift = (w @ relative) / safe_weight
        deviation = ((w @ relative.sub_(shift).square_()) / safe_weight).sqrt() * unit
        exact = x if x.dtype in (torch.float32, torch.float64) else x.float()
        keys = row_keys(exact)
        if last_keys is not None:
            has_room = (keys <= last_keys).any(1)
            exact, w, keys = exact[has_room], w[has_room], keys[has_room]
        n_bad = (~finite).sum()
        mean = anchor + shift * unit
        summary = cls(rows, n_bad, first_bad, count, total_weight, mean, deviation, largest, exact, w, keys, capacity)
        return summary._trim()

    def _trim(self) -> "DataSummary":
        """Add up the weights of equal points, and keep those with the smallest keys of either kind."""
        m = len(self.keys)
        exact, order = self.keys[:, 1].masked_fill(self.kept_weight <= 0, _LAST_KEY).sort(stable=True)
        begins = torch.ones_like(exact, dtype=torch.bool)
        torch.ne(exact[1:], exact[:-1], out=begins[1:])
        group = begins.cumsum(0) - 1
        weight = self.kept_weight.new_zeros(m).index_add_(0, group, self.kept_weight[order])
        first, _ = _compacted(order, begins, m)
        stays = weight > 0
        if m > self.capacity:
            cell = self.keys[first, 0].masked_fill(~stays, _LAST_KEY)
            last = cell.kthvalue(self.capacity).values
            below, ties = stays & (cell < last), stays & (cell == last)
            chosen = below | (ties & (ties.cumsum(0) <= self.capacity - below.sum()))
            chosen[: self._n_exact] = True
            stays &= chosen
        place, n_points = _compacted(torch.arange(m, device=order.device), stays, min(m, self.capacity + self._n_exact))
        if is_host(place.device):
            place = place[: int(n_points)]
        first, weight = first[place], weight[place] * (torch.arange(len(place), device=place.device) < n_points)
        return replace(self, kept=self.kept.index_select(0, first), kept_weight=weight, keys=self.keys[first])

    @property
    def last_keys(self) -> Tensor | None:
        """(2,) int64: a point with larger keys, both, would not be kept. None if there is room for all."""
        if not is_host(self.keys.device) or len(self.keys) <= self.capacity:
            return None
        return torch.stack([self.keys[:, 0].kthvalue(self.capacity).values, self.keys[self._n_exact - 1, 1]])

    @property
    def _n_exact(self) -> int:
        return max(1, self.capacity // 2)

    def sample(self) -> tuple[Tensor, Tensor]:
        """A uniform sample of the distinct points, (m, D), and their weights (m,), m at most `capacity`.

        It is drawn by cell keys, which do not depend on last digits. If points lie so close together, relative to their
        distance from the origin, that they share cells, half as many are drawn, by their exact keys.
        """
        are_points = self.kept_weight > 0
        cell, by_cell = self.keys[:, 0].masked_fill(~are_points, _LAST_KEY).sort(stable=True)
        cell, by_cell = cell[: self.capacity], by_cell[: self.capacity]
        (n_points,), (n_steps,) = look("sample", are_points.sum(), (cell[1:] != cell[:-1]).sum())
        if n_points <= self.capacity:
            by_cell = by_cell[: int(n_points)]
        elif n_steps + 1 < _APART * self.capacity:
            by_cell = torch.arange(self._n_exact, device=by_cell.device)
        return self.kept.index_select(0, by_cell), self.kept_weight[by_cell]

    def __add__(self, other: "DataSummary") -> "DataSummary":
        """Merge by Chan, Golub, LeVeque (1983), equation 2.1."""
        total_weight = self.total_weight + other.total_weight
        safe_weight = total_weight.clamp_min(torch.finfo(torch.float64).tiny)
        share, rest = other.total_weight / safe_weight, self.total_weight / safe_weight
        delta = torch.where(self.total_weight > 0, other.mean - self.mean, torch.zeros_like(self.mean))
        mean = torch.where(self.total_weight > 0, self.mean + delta * share, other.mean)
        within = torch.hypot(self.deviation * rest.sqrt(), other.deviation * share.sqrt())
        merged = DataSummary(
            self.rows + other.rows,
            self.n_bad + other.n_bad,
            torch.where(self.n_bad > 0, self.first_bad, self.rows + other.first_bad),
            self.count + other.count,
            total_weight,
            mean,
            torch.hypot(within, delta * (share * rest).sqrt()),
            torch.maximum(self.largest, other.largest),
            torch.cat([self.kept, other.kept]),
            torch.cat([self.kept_weight, other.kept_weight]),
            torch.cat([self.keys, other.keys]),
            self.capacity,
        )
        return merged._trim()

    def reduce(self) -> "DataSummary":
        """The sum over all processes."""
        if not is_distributed():
            return self
        parts = gather_objects(tree_map_only(Tensor, Tensor.cpu, vars(self)))
        total = functools.reduce(operator.add, (DataSummary(**part) for part in parts))
        return DataSummary(**tree_map_only(Tensor, lambda value: value.to(self.mean.device), vars(total)))

    def standardisation(self, per_feature: bool, smallest: float = 0.0) -> Standardisation:
        """Location and scale of the summarised points; one common scale unless `per_feature`, at least `smallest`."""
        deviation, varies = self.deviation, self.varies
        if not per_feature:
            deviation = _root_mean_square(deviation).expand_as(deviation)
            varies = (deviation > _root_mean_square(self.noise)).expand_as(deviation)
        log_deviation = torch.where(varies, deviation, torch.ones_like(deviation)).log2()
        typical = (log_deviation.sum() / varies.sum().clamp_min(1)).expand_as(log_deviation)
        # In units smaller than its own noise, a constant feature could leave the range of float32.
        constant = torch.maximum(typical, deviation.log2())
        log_deviation = torch.where(varies, log_deviation, constant)
        log_scale = log_deviation.round()
        if smallest > 0:
            log_scale = log_scale.clamp_min(math.ceil(math.log2(smallest)))
        scale = torch.exp2(log_scale)
        grid = scale / 64
        steps = self.mean / grid
        location = torch.where(steps.abs() < 2**53, steps.round() * grid, self.mean)
        location = location.to(self.kept.dtype).double()
        return Standardisation(location, scale, torch.exp2(2 * (log_deviation - log_scale)))

    @property
    def noise(self) -> Tensor:
        """(D,), the rounding error of the data, which must not count as spread."""
        return self.mean.abs() * torch.finfo(self.kept.dtype).eps

    @property
    def varies(self) -> Tensor:
        """(D,) bool, True for features that are not constant."""
        return self.deviation > self.noise


def _compacted(values: Tensor, chosen: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The chosen int64 values (m,), in order, padded with zeros to a fixed `size`; and their number, () int64.

    The fixed size avoids waiting for the device.
    """
    place = chosen.cumsum(0)
    room = values.new_zeros(size + 1).scatter_(0, torch.where(chosen, place - 1, size), values)
    return room[:size], chosen.sum()


def _root_mean_square(x: Tensor) -> Tensor:
    """Root mean square () of numbers (D,) >= 0, without overflow."""
    largest = x.amax()
    return (x / torch.where(largest > 0, largest, torch.ones_like(largest))).square().mean().sqrt() * largest


def sample_capacity(n_components: int) -> int:
    """Number of points for the initialisation: enough to place the means, few enough to be fast."""
    result: int = max(10_000, 2 ** math.ceil(math.log2(100 * n_components)))
    return result


def check_range(
    largest: float, deviation: list[float], varies: list[float], dtype: torch.dtype, stored: torch.dtype
) -> None:
    """Raise ValueError unless densities in `dtype`, with parameters in `stored`, can describe the summarised points.

    The largest number must be at most an eighth of the largest in `dtype`, and half of the largest in `stored`. The
    standard deviation of a feature that is not constant must be at least `tiny / eps` of `dtype`.
    """
    limits = torch.finfo(dtype)
    high, low = min(limits.max / 8, torch.finfo(stored).max / 2), limits.tiny / limits.eps
    smallest = min((size for size, does_vary in zip(deviation, varies, strict=True) if does_vary), default=low)
    if largest > high or smallest < low:
        change = "divide" if largest > high else "multiply"
        raise ValueError(
            f"x: expected numbers up to {high:.2g} in size, and features that are constant or have a standard "
            f"deviation of at least {low:.2g}, for a mixture in {stored}; got {largest:.2g} and {smallest:.2g}: "
            f"{change} the data by a constant" + ", or fit a mixture of dtype=torch.float64" * (dtype != torch.float64)
        )
