"""Stepwise EM on streams."""

import pytest
import torch

from gmm_torch import GaussianMixture, devices
from gmm_torch.mixture.options import EMOptions
from gmm_torch.mixture.statistics import stand_ins
from gmm_torch.mixture.stepwise import OnlineEM

TYPES = ("full", "tied", "diag", "spherical")


def stream(n: int, seed: int = 0, shift: float = 0.0) -> torch.Tensor:
    """Three well separated clusters in four dimensions."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[0.0, 0, 0, 0], [6, 0, 3, 0], [0, 6, 0, -3]]) + shift
    return centres[torch.randint(3, (n,), generator=generator)] + torch.randn(n, 4, generator=generator)


@pytest.fixture
def one_over_t(monkeypatch):
    monkeypatch.setattr("gmm_torch.mixture.stepwise._POWER", 1.0)
    monkeypatch.setattr("gmm_torch.mixture.stepwise._OFFSET", 1.0)


@pytest.mark.usefixtures("one_over_t")
def test_a_step_size_of_one_over_t_is_the_mean_of_all_batches():
    x, parts = stream(3000), []
    follower = GaussianMixture(3, 4).start_online(n_first=1000).update(x[:1000])
    parts.append(follower.moments["moments"].clone())
    for part in x[1000:].split(500):
        total = follower.em.accumulate(part)
        follower.update(part)
        parts.append(total.moments["moments"] / total.total_weight)
    # With g = 1 / (t + 1) every batch counts alike, the first points included.
    torch.testing.assert_close(follower.moments["moments"], torch.stack(parts).mean(0))


def test_a_window_weights_points_alike_until_it_is_full():
    x = stream(3000)
    follower = GaussianMixture(3, 4).start_online(window=2000, n_first=1000).update(x[:1000])
    for rows, rate in (((1000, 1500), 500 / 1500), ((1500, 2500), 1000 / 2000), ((2500, 3000), 500 / 2000)):
        part, before = x[slice(*rows)], follower.moments["moments"]
        total = follower.em.accumulate(part)
        follower.update(part)
        expected = before + rate * (total.moments["moments"] / len(part) - before)
        torch.testing.assert_close(follower.moments["moments"], expected)


def test_the_mixture_follows_a_drift():
    mixture = GaussianMixture(3, 4, "diag")
    for t in range(200):
        mixture.partial_fit(stream(100, seed=t, shift=t / 50))
    late = stream(2000, seed=999, shift=199 / 50)
    assert mixture.score(late) > GaussianMixture(3, 4, "diag").fit(stream(2000)).score(late) + 1
    assert mixture.score(late) > GaussianMixture(3, 4, "diag").fit(late).score(late) - 0.5


@pytest.mark.usefixtures("one_over_t")
@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_fit_counts_as_many_points_as_it_had(covariance_type):
    """The first batch of a stream holds one of three clusters: the fit to 4,200 points of all outweighs it."""
    generator = torch.Generator().manual_seed(0)
    centres = 1e3 + 6 * torch.randn(3, 4, generator=generator)
    x = (centres[:, None] + torch.randn(3, 1400, 4, generator=generator)).flatten(0, 1)
    mixture = GaussianMixture(3, 4, covariance_type).fit(x, reg_covar=1e-6)
    before, means = mixture.score(x), mixture.means.clone()
    mixture.partial_fit(x[:100])
    rate = 1 / (4200 // 100 + 2)
    first = int((mixture.means - centres[0]).norm(dim=1).argmin())
    assert mixture.weights[first] == pytest.approx((1 - rate) / 3 + rate, rel=1e-3)
    others = torch.arange(3) != first
    torch.testing.assert_close(mixture.means[others], means[others], rtol=1e-6, atol=1e-3)
    assert mixture.score(x) > before - 0.02


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("chunk", [2**24, 1])
def test_an_m_step_on_stand_ins_gives_the_mixture_again(covariance_type, chunk, monkeypatch):
    monkeypatch.setitem(devices.CHUNK_BYTES, "host", chunk)
    mixture = GaussianMixture(3, 4, covariance_type, dtype=torch.float64).fit(stream(500).double())
    known, family, nothing = mixture.parameters_about_location(), mixture.family, torch.zeros(4, dtype=torch.float64)
    prepared, total = family.prepare(known, nothing), {}
    for x, weight in stand_ins(known.log_weights.softmax(-1), known.means, family.dense(known.factors, 3, 4)):
        for name, value in family.moments(prepared, family.features(x.mT), weight).items():
            total[name] = total.get(name, 0) + value
    found, _ = family.update(total, nothing, known)
    torch.testing.assert_close(found.means, known.means, rtol=1e-9, atol=1e-9)
    expected, actual = (family.covariances(each.factors, 4) for each in (known, found))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("start", ["nothing", "first points", "some updates", "a fit"])
def test_a_saved_stream_continues_bit_for_bit(start):
    mixture = GaussianMixture(3, 4)
    follower = (mixture.fit(stream(2000)) if start == "a fit" else mixture).start_online(n_first=300)
    for part in stream(2000).split(100)[: {"first points": 1, "some updates": 7}.get(start, 0)]:
        follower.update(part)
    other = GaussianMixture(3, 4).start_online(n_first=300)
    other.load_state_dict(follower.state_dict())
    for part in stream(1000, seed=1).split(100):
        for each in (follower, other):
            each.update(part)
    torch.testing.assert_close(vars(other.result()[0]), vars(follower.result()[0]), rtol=0, atol=0)


def test_weights_count_points_and_bad_rows_are_left_out():
    twice, weighted = (GaussianMixture(3, 4, "diag").start_online(n_first=500) for _ in range(2))
    for part in stream(1500).split(500):
        twice.update(torch.cat([part, part[:100], torch.full((7, 4), torch.nan)]))
        weighted.update(part, 1 + (torch.arange(500) < 100).double())
    torch.testing.assert_close(twice.result()[0].means, weighted.result()[0].means, rtol=1e-5, atol=1e-5)
    before = twice.em.parameters.means.clone()
    twice.update(torch.full((7, 4), torch.nan)).update(stream(0))
    torch.testing.assert_close(twice.em.parameters.means, before)


def test_bad_families_shapes_and_changed_options_are_refused():
    with pytest.raises(ValueError, match="covariance_type"):
        OnlineEM(GaussianMixture(3, 4, {"name": "low_rank", "rank": 2}).start_em(EMOptions()))
    with pytest.raises(ValueError, match=r"shape \(N, 4\)"):
        GaussianMixture(3, 4).partial_fit(torch.zeros(3, 5))
    mixture = GaussianMixture(3, 4).partial_fit(stream(100), window=50).partial_fit(stream(100))
    for change in ({"window": 60}, {"reg_covar": 0.1}):
        with pytest.raises(ValueError, match=next(iter(change))):
            mixture.partial_fit(stream(100), **change)
