"""What is done otherwise on an accelerator finds what the host finds: here the host does both, in float64."""

import sys

import pytest
import torch
from torch._dynamo.utils import counters
from torch.utils._pytree import tree_leaves

import gmm_torch.devices
from gmm_torch import GaussianMixture
from gmm_torch.mixture.covariance import get_family
from gmm_torch.mixture.data_summary import DataSummary, Standardisation
from gmm_torch.mixture.e_step import EStep, _equal_chunks
from gmm_torch.mixture.parameters import Parameters
from gmm_torch.mixture.sampling import RowKeys

D, K = 19, 3  # more features than a block of rows


@pytest.fixture
def as_accelerator(monkeypatch):
    """From its call on the host is taken for an accelerator, of small chunks."""
    own = gmm_torch.devices.is_host

    def begin():
        for name, module in list(sys.modules.items()):
            if name.startswith("gmm_torch") and getattr(module, "is_host", None) is own:
                monkeypatch.setattr(module, "is_host", lambda device: False)
        monkeypatch.setitem(gmm_torch.devices.CHUNK_BYTES, "accelerator", 2**17)
        monkeypatch.setattr("gmm_torch.mixture.covariance.base.SPILL_POINTS", 100)

    return begin


def points(n=1003):
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(K, D, generator=generator)
    x = torch.randn(n, D, generator=generator) + centres[torch.randint(K, (n,), generator=generator)]
    return x.double(), torch.randint(0, 3, (n,), generator=generator).double()


@pytest.mark.parametrize(
    "covariance_type", ["full", "tied", "diag", "spherical", {"name": "low_rank", "rank": 3}], ids=str
)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_fit_is_that_of_the_host(as_accelerator, covariance_type, weighted):
    x, weight = points()
    options = {"max_iter": 5, "tol": 0.0, "sample_weight": weight if weighted else None, "n_init": 2}
    with pytest.warns(match="EM stopped"):
        host = GaussianMixture(K, D, covariance_type, dtype=torch.float64).fit(x, **options)
    as_accelerator()
    with pytest.warns(match="EM stopped"):
        there = GaussianMixture(K, D, covariance_type, dtype=torch.float64).fit(x, **options)
    torch.testing.assert_close(there.history, host.history, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(there.log_prob(x), host.log_prob(x), rtol=1e-7, atol=1e-7)


def test_ill_conditioned_components_are_found_at_the_same_looks(as_accelerator):
    x = points(600)[0].float()
    x = torch.cat([x, 50 + 1e-4 * x[:200]])
    with pytest.warns(match="EM stopped"):
        host = GaussianMixture(K + 1, D, "full").fit(x, max_iter=10, tol=0.0)
    as_accelerator()
    with pytest.warns(match="EM stopped"):
        there = GaussianMixture(K + 1, D, "full").fit(x, max_iter=10, tol=0.0)
    torch.testing.assert_close(there.history, host.history, rtol=1e-4, atol=1e-4)


def test_a_summary_without_looks_is_that_of_the_host(as_accelerator):
    x, weight = points(900)
    x[5], x[7, 0] = torch.nan, torch.inf
    keys = RowKeys(D, 0, x.device)
    parts = [(x[i : i + 300], weight[i : i + 300]) for i in (0, 300, 600)]
    first, *others = (DataSummary.of(part, own, 100, keys) for part, own in parts)
    host = first + others[0] + others[1]
    as_accelerator()
    first, *others = (DataSummary.of(part, own, 100, keys) for part, own in parts)
    there = first + others[0] + others[1]
    for name in ("rows", "n_bad", "first_bad", "count", "total_weight", "mean", "deviation", "largest"):
        torch.testing.assert_close(getattr(there, name), getattr(host, name), rtol=1e-12, atol=1e-12)
    assert len(there.kept) == 150 >= len(host.kept)
    for mine, theirs in zip(there.sample(), host.sample(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(("n", "largest"), [(0, 5), (1, 5), (5, 5), (11, 5), (1003, 100), (7, 1)])
def test_chunks_are_of_one_size_and_count_every_point_once(n, largest):
    x = torch.arange(n, dtype=torch.float64)[:, None]
    for weight in (None, torch.arange(n).double()):
        counted = torch.zeros(n, dtype=torch.float64)
        sizes = set()
        for part, own in _equal_chunks(x, weight, largest):
            counted.index_add_(0, part[:, 0].long(), torch.ones(len(part)).double() if own is None else own)
            sizes.add(len(part))
        assert torch.equal(counted, torch.ones(n).double() if weight is None else weight)
        assert len(sizes) == min(n, 1)
        assert all(size <= largest for size in sizes)


def iteration(covariance_type, seed, ill_conditioned):
    """The E-step of one iteration."""
    family, generator = get_family(covariance_type), torch.Generator().manual_seed(seed)
    factors = {name: value.double()[None] for name, value in family.unit(K, D).items()}
    means = torch.randn(1, K, D, generator=generator, dtype=torch.float64)
    one = torch.ones(D, dtype=torch.float64)
    parameters = Parameters(torch.full((1, K), 1 / K, dtype=torch.float64).log(), means, factors)
    return EStep(family, parameters, 1e-6 * one, Standardisation(one / 2, 2 * one, one), torch.float32, ill_conditioned)


@pytest.mark.parametrize(
    ("covariance_type", "ill_conditioned"),
    [(each, None) for each in ("full", "tied", "spherical", {"name": "low_rank", "rank": 3})]
    + [("diag", torch.tensor([1]))],
    ids=str,
)
def test_a_chunk_is_one_graph_to_a_compiler_for_all_chunks_and_iterations(
    as_accelerator, covariance_type, ill_conditioned
):
    as_accelerator()
    torch.compiler.reset()
    counters.clear()
    chunk = torch.compile(EStep.chunk, fullgraph=True, dynamic=False, backend="eager")
    for seed in (0, 1):
        step = iteration(covariance_type, seed, ill_conditioned)
        for x in torch.randn(2, 500, D, generator=torch.Generator().manual_seed(seed)):
            found, expected = (tree_leaves(vars(work(step, x, torch.ones(500)))) for work in (chunk, EStep.chunk))
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
