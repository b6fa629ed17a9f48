"""What an iteration asks of a device, counted by dispatch on tensors of the device "meta", which have sizes alone.

So no card is needed, and none is measured: operations started, floating-point operations, bytes moved.
"""

from collections import Counter
from typing import Any, NamedTuple
from unittest import mock

import torch
from problems import Problem
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from gmm_torch import GaussianMixture, devices
from gmm_torch.mixture.covariance import CovarianceFamily, get_family
from gmm_torch.mixture.data_summary import Standardisation
from gmm_torch.mixture.e_step import Assignment, EStep
from gmm_torch.mixture.em import EM
from gmm_torch.mixture.options import EMOptions
from gmm_torch.mixture.parameters import Parameters
from gmm_torch.mixture.statistics import Statistics

aten = torch.ops.aten
# Multiplications and additions of factorisations and solves; those of matrix products are torch's own.
CUBES = {
    aten.linalg_cholesky_ex: lambda a, *_, **__: a.shape[-1] ** 3 / 3 * a[..., 0, 0].numel(),
    aten.linalg_solve_triangular: lambda a, b, **_: a.shape[-1] ** 2 * b.shape[-1] * a[..., 0, 0].numel(),
    aten.linalg_qr: lambda a, *_: 4 * a.shape[-2] * a.shape[-1] ** 2 * a[..., 0, 0].numel(),
}
FREE = {aten.empty, aten.new_empty, aten.empty_like, aten.empty_strided, aten._unsafe_view}


class Counted(TorchDispatchMode):
    """Counts operations that start work, and what work they start.

    Attributes:
        started: name of the operation -> how often; views and unwritten memory are none.
        flop: type -> floating-point operations of matrix products and factorisations.
        bytes: read and written by all operations, each of its tensors once: what would be moved if no cache kept
            anything from one operation to the next.
        products: FLOP and bytes of every matrix product or factorisation, which a bound adds up one by one.
        others: bytes of every other operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.started: Counter[str] = Counter()
        self.flop: Counter[torch.dtype] = Counter()
        self.bytes = 0
        self.products: list[tuple[torch.dtype, float, int]] = []
        self.others: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        packet = func.overloadpacket
        is_view = any(each.alias_info and not each.alias_info.is_write for each in func._schema.returns)
        if is_view or packet in FREE:
            return made
        self.started[str(packet)] += 1
        moved = sum(_bytes(value) for value in tree_leaves((args, kwargs, made)) if isinstance(value, Tensor))
        if any(each.alias_info for each in func._schema.returns) and "out" in kwargs:
            moved -= _bytes(kwargs["out"])
        self.bytes += moved
        if packet in flop_registry or packet in CUBES:
            given = {name: value for name, value in kwargs.items() if name != "out"}
            flop = (
                CUBES[packet](*args, **given)
                if packet in CUBES
                else flop_registry[packet](*args, **given, out_val=made)
            )
            dtype = tree_leaves(made)[0].dtype
            self.flop[dtype] += flop
            self.products.append((dtype, float(flop), moved))
        else:
            self.others.append(moved)
        return made


def _bytes(value: Tensor) -> int:
    """Of the numbers that there are in memory: an expanded tensor has fewer than its shape says."""
    sizes = [size for size, stride in zip(value.shape, value.stride(), strict=True) if stride]
    return int(torch.Size(sizes).numel()) * value.element_size()


class Parts(NamedTuple):
    """The parts of an iteration: one chunk, how many of them there are, and what follows all of them.

    Beside them what comes once before, in float64: the assignment of all points to the initial means.
    """

    chunk: Counted
    n_chunks: int
    chunk_points: int
    update: Counted
    assignment_flop: int


def iteration(problem: Problem) -> Parts:
    """Of EM on an accelerator, float32, none of the components ill-conditioned."""
    family: CovarianceFamily = get_family(problem.covariance_type)
    wide: dict[str, Any] = {"dtype": torch.float64, "device": "meta"}
    factors = {name: torch.empty(1, *value.shape, **wide) for name, value in family.unit(problem.k, problem.d).items()}
    parameters = Parameters(torch.empty(1, problem.k, **wide), torch.empty(1, problem.k, problem.d, **wide), factors)
    one = torch.ones(problem.d, **wide)
    standardisation = Standardisation(one, one, one)
    step = EStep(family, parameters, one, standardisation, torch.float32)
    chunk, n_chunks, total, points = _chunk(step, problem)
    assigned, n_assigned, _, _ = _chunk(Assignment(family, parameters, one, standardisation, torch.float64), problem)
    em = EM(family, problem.k, problem.d, EMOptions(tol=0.0, max_iter=10), device=torch.device("meta"))
    em.standardisation, em.reg_covar = standardisation, one
    em.phase, em.parameters, em._step, em._fresh = "iterate", parameters, step, family.fresh(one)
    em.ill_conditioned = torch.empty(0, dtype=torch.long, device="meta")
    em.n_iter = 1  # an iteration without a look, as four of five are
    with mock.patch.object(devices, "read", lambda _, numbers: [0.0] * numbers.numel()), Counted() as update:
        em.advance(total)
    return Parts(chunk, n_chunks, points, update, n_assigned * assigned.flop.total())


def _chunk(step: EStep, problem: Problem) -> tuple[Counted, int, Statistics, int]:
    """A chunk's operations, the number of chunks, the statistics of one, and its points."""
    n_chunks = -(-problem.n // step._chunk)
    points = torch.empty(-(-problem.n // n_chunks), problem.d, device="meta")
    total: Statistics = step.zero()
    with Counted() as chunk:
        total = total + step.chunk(points, None)
    return chunk, n_chunks, total, len(points)


def scoring(problem: Problem) -> Counted:
    """Of `log_prob` of a chunk of points."""
    mixture = GaussianMixture(problem.k, problem.d, problem.covariance_type, device="meta")
    mixture._seen_fitted = True
    x = torch.empty(problem.n, problem.d, device="meta")
    with Counted() as found:
        mixture.log_prob(x[: mixture._chunk(x)])
    return found
