"""Any number of processes, whatever each holds, end with the mixture of one."""

import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from gmm_torch import ConvergenceWarning, GaussianMixture
from gmm_torch.mixture.covariance import FAMILIES
from tests.processes import run_processes

N, D, K = 301, 3, 4

# How many points each process holds: uneven, and with an empty one.
SHARES = {1: [N], 2: [200, 101], 3: [7, 0, N - 7]}


def points() -> Tensor:
    """Clusters in class order, so that the processes see different data; one point lies alone."""
    generator = torch.Generator().manual_seed(0)
    centres = 4 * torch.randn(K, 1, D, generator=generator)
    x = (centres + torch.randn(K, N // K, D, generator=generator)).flatten(0, 1)
    return torch.cat([x, torch.full((1, D), 40.0)])


def fits(x: Tensor) -> dict[str, dict[str, Tensor]]:
    """State of the mixtures fitted to this process's points, by name; the last two begin with a dead component."""
    state = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for name in FAMILIES:
            mixture = GaussianMixture(K, D, name).fit(x, max_iter=8, tol=0.0, n_init=2)
            state[name] = mixture.state_dict() | {"history": mixture.history}
        means = torch.cat([torch.eye(D), torch.full((1, D), -1e5)])
        mixture = GaussianMixture(K, D).fit(x, max_iter=8, tol=0.0, means_init=means)
        state["dead"] = mixture.state_dict() | {"history": mixture.history}
        # Weights of 1e-9, and a prior, which counts points of the mean weight of all processes.
        weight = 1e-9 * (1 + (x[:, 0] > 0).double())
        mixture = GaussianMixture(K, D).fit(
            x, max_iter=8, tol=0.0, means_init=means, sample_weight=weight if len(x) else None, prior_count=1.0
        )
        state["light"] = mixture.state_dict() | {"history": mixture.history}
        # Missing features: means, variances, counts and statistics of what is observed are those of all processes.
        holes = torch.where((x.sum(1, keepdim=True) * 1e4).long() % 5 == torch.arange(D), torch.nan, x)
        holes[:, 0] = torch.where(x[:, 1] > x[:, 2], torch.nan, holes[:, 0])
        mixture = GaussianMixture(2, D).fit(holes, missing=True, max_iter=8, tol=0.0, means_init=means[:2])
        state["missing"] = mixture.state_dict() | {"history": mixture.history}
        # A stream after a fit: batches as uneven as the shares, one for each process.
        mixture = GaussianMixture(K, D).fit(x, max_iter=8, tol=0.0, means_init=means)
        state["stream"] = mixture.partial_fit(x).partial_fit(x).state_dict()
    return state


def work(rank: int, world_size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    init = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=init, rank=rank, world_size=world_size)
    shares = SHARES[world_size]
    x = points().split(shares)[rank] if shares[rank] else torch.empty(0, D)
    torch.save(fits(x), folder / f"{rank}.pt")
    bad = points().split([100] * world_size + [N - 100 * world_size])[rank].clone()
    if rank == world_size - 1:
        bad[5] = torch.nan
    try:
        GaussianMixture(K, D).fit(bad)
    except ValueError as error:
        (folder / f"{rank}.error").write_text(str(error))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Tensor]]:
    return fits(points())


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_end_with_the_mixture_of_one(tmp_path, alone, world_size):
    run_processes(work, (world_size, tmp_path), world_size)
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world_size)]
    for result in results:
        assert result.keys() == alone.keys()
        for name, state in result.items():
            torch.testing.assert_close(state, alone[name], rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    # Bit for bit among themselves: they may not drift apart.
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)
    # A bad row in one process is an error in all of them, not a wait without end.
    errors = {(tmp_path / f"{rank}.error").read_text() for rank in range(world_size)}
    n_rows, first = 100 * world_size, 100 * (world_size - 1) + 5
    assert errors == {
        f"x: expected finite numbers; 1 of {n_rows} rows have NaN or infinity, the first is row {first}: drop or "
        "repair them, or fit(x, missing=True) where NaN stands for a missing value"
    }
