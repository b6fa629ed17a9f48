"""Stepwise EM on streams."""

import pytest
import torch

from gmm_torch import GaussianMixture, NotFittedError, devices
from gmm_torch.mixture.options import EMOptions
from gmm_torch.mixture.statistics import stand_ins
from gmm_torch.mixture.stepwise import OnlineEM

TYPES = ("full", "tied", "diag", "spherical")


def stream(n: int, seed: int = 0, shift: float = 0.0) -> torch.Tensor:
    """Three well separated clusters in four dimensions."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[0.0, 0, 0, 0], [6, 0, 3, 0], [0, 6, 0, -3]]) + shift
    return centres[torch.randint(3, (n,), generator=generator)] + torch.randn(n, 4, generator=generator)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_one_pass_of_a_stream_comes_close_to_em_on_all_of_it(covariance_type):
    x, held_out = stream(10_000), stream(5000, seed=1)
    batch = GaussianMixture(3, 4, covariance_type).fit(x, reg_covar=1e-3)
    online = GaussianMixture(3, 4, covariance_type)
    for part in x.split(100):
        online.partial_fit(part, n_first=500)
    assert abs(online.score(held_out) - batch.score(held_out)) < 0.02


def test_a_step_size_of_one_over_t_is_the_mean_of_all_batches():
    x = stream(3000)
    follower = GaussianMixture(3, 4).start_online(power=1.0, offset=1.0, n_first=1000)
    follower.update(x[:1000])
    first = follower.moments["moments"].clone()
    parts = []
    for part in x[1000:].split(500):
        total = follower.em.accumulate(part)
        follower.update(part)
        parts.append(total.moments["moments"] / total.total_weight)
    # with g = 1 / (t + 1) every batch, the first points included, has the same say
    expected = torch.stack([first, *parts]).mean(0)
    torch.testing.assert_close(follower.moments["moments"], expected)


def test_a_memory_weighs_all_points_alike_until_it_is_full_then_the_batch_by_its_share():
    x = stream(3000)
    follower = GaussianMixture(3, 4).start_online(window=2000, n_first=1000)
    follower.update(x[:1000])
    for rows, rate in (((1000, 1500), 500 / 1500), ((1500, 2500), 1000 / 2000), ((2500, 3000), 500 / 2000)):
        part = x[slice(*rows)]
        before = follower.moments["moments"]
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


def test_a_fitted_mixture_is_where_the_stream_starts():
    x = stream(4000)
    mixture = GaussianMixture(3, 4).fit(x)
    known = mixture.means.clone()
    mixture.partial_fit(stream(200, seed=3), n_first=100, max_iter=1)
    assert (mixture.means - known).norm(dim=1).max() < 0.6  # the same components, in the same order


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_fit_counts_as_the_points_it_was_of(covariance_type):
    """The first batch of a stream holds one of three clusters: the fit to 4,200 points of all outweighs it."""
    generator = torch.Generator().manual_seed(0)
    centres = 1e3 + 6 * torch.randn(3, 4, generator=generator)
    x = (centres[:, None] + torch.randn(3, 1400, 4, generator=generator)).flatten(0, 1)
    mixture = GaussianMixture(3, 4, covariance_type).fit(x, reg_covar=1e-6)
    before, means = mixture.score(x), mixture.means.clone()
    mixture.partial_fit(x[:100], power=1.0, offset=1.0)
    rate = 1 / (4200 // 100 + 2)
    first = int((mixture.means - centres[0]).norm(dim=1).argmin())
    assert mixture.weights[first] == pytest.approx((1 - rate) / 3 + rate, rel=1e-3)
    others = torch.arange(3) != first
    torch.testing.assert_close(mixture.means[others], means[others], rtol=1e-6, atol=1e-3)
    assert mixture.score(x) > before - 0.02


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("chunk", [2**24, 1])
def test_points_that_stand_for_a_mixture_make_it_again(covariance_type, chunk, monkeypatch):
    monkeypatch.setitem(devices.CHUNK_BYTES, "host", chunk)
    mixture = GaussianMixture(3, 4, covariance_type, dtype=torch.float64).fit(stream(500).double())
    known = mixture.parameters_about_location()
    family, nothing = mixture.family, torch.zeros(4, dtype=torch.float64)
    prepared, total = family.prepare(known, nothing), {}
    for x, weight in stand_ins(known.log_weights.softmax(-1), known.means, family.dense(known.factors, 3, 4)):
        for name, value in family.moments(prepared, family.features(x.mT), weight).items():
            total[name] = total.get(name, 0) + value
    found, _ = family.update(total, nothing, known)
    torch.testing.assert_close(found.log_weights, known.log_weights, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.means, known.means, rtol=1e-9, atol=1e-9)
    expected, actual = (family.covariances(each.factors, 4) for each in (known, found))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_what_is_not_known_can_not_count():
    with pytest.raises(ValueError, match="n_known"):
        GaussianMixture(3, 4).start_online(n_known=5)


def test_a_stream_after_a_fit_is_saved_and_goes_on():
    mixture = GaussianMixture(3, 4).fit(stream(2000))
    follower, other = mixture.start_online(), GaussianMixture(3, 4).start_online()
    other.load_state_dict(follower.state_dict())
    for each in (follower, other):
        each.update(stream(100, seed=1))
    again = GaussianMixture(3, 4).start_online()
    again.load_state_dict(follower.state_dict())
    for each in (follower, other, again):
        each.update(stream(100, seed=2))
    for each in (other, again):
        torch.testing.assert_close(vars(each.now()[0]), vars(follower.now()[0]), rtol=0, atol=0)


def test_a_fit_forgets_the_stream():
    mixture = GaussianMixture(3, 4)
    for part in stream(2000).split(100):
        mixture.partial_fit(part)
    other = stream(2000, seed=5, shift=50.0)
    assert torch.equal(mixture.fit(other).means, GaussianMixture(3, 4).fit(other).means)
    mixture.partial_fit(other[:300])
    assert mixture.score(other) > -20


def test_there_are_no_parameters_before_enough_points():
    mixture = GaussianMixture(3, 4)
    mixture.partial_fit(stream(59), n_first=60)
    with pytest.raises(NotFittedError):
        mixture.score(stream(5))
    follower = GaussianMixture(3, 4).start_online()
    with pytest.raises(NotFittedError, match="expected 60 points to start from; got 0"):
        follower.result()
    mixture.partial_fit(stream(1))
    assert torch.isfinite(mixture.log_prob(stream(5))).all()


def test_weights_count_points():
    x = stream(1500)
    twice, weighted = (GaussianMixture(3, 4, "diag").start_online(n_first=500) for _ in range(2))
    for part in x.split(500):
        twice.update(torch.cat([part, part[:100]]))
        weighted.update(part, 1 + (torch.arange(500) < 100).double())
    torch.testing.assert_close(twice.result()[0].means, weighted.result()[0].means, rtol=1e-5, atol=1e-5)


def test_rows_that_are_not_finite_and_empty_batches_are_left_out():
    x = stream(1500)
    clean, dirty = (GaussianMixture(3, 4).start_online(n_first=500) for _ in range(2))
    bad = torch.full((7, 4), torch.nan)
    for part in x.split(500):
        clean.update(part)
        dirty.update(torch.cat([part, bad]))
    torch.testing.assert_close(clean.result()[0].means, dirty.result()[0].means)
    before = dirty.em.parameters.means.clone()
    dirty.update(bad)
    dirty.update(x[:0])
    torch.testing.assert_close(dirty.em.parameters.means, before)


def test_a_saved_state_goes_on_bit_for_bit():
    parts = stream(2000).split(100)
    whole = GaussianMixture(3, 4).start_online(n_first=300)
    for cut in (1, 7):
        first, second = (GaussianMixture(3, 4).start_online(n_first=300) for _ in range(2))
        for part in parts[:cut]:
            first.update(part)
        second.load_state_dict(first.state_dict())
        for part in parts[cut:]:
            second.update(part)
        if cut == 1:
            for part in parts:
                whole.update(part)
        assert torch.equal(second.result()[0].means, whole.result()[0].means)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"power": 0.5}, "power: expected a number above 1/2"),
        ({"offset": 0}, "offset: expected at least 1"),
        ({"window": 0}, "window: expected at least one point"),
        ({"n_first": 2}, "n_first: expected at least as many points as components"),
        ({"reg_covar": -1}, "reg_covar: expected a finite number"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(3, 4).partial_fit(stream(10), **options)


def test_a_family_whose_statistics_can_not_be_averaged_is_refused():
    mixture = GaussianMixture(3, 4, {"name": "low_rank", "rank": 2})
    with pytest.raises(ValueError, match="covariance_type"):
        OnlineEM(mixture.start_em(EMOptions()))
    with pytest.raises(ValueError, match=r"expected shape \(N, 4\)"):
        GaussianMixture(3, 4).partial_fit(torch.zeros(3, 5))


def test_an_option_that_a_stream_did_not_begin_with_is_refused():
    x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    mixture = GaussianMixture(2, 3).partial_fit(x, window=50)
    mixture.partial_fit(x, window=50).partial_fit(x)
    with pytest.raises(ValueError, match="window: expected what the stream began with, 50; got 60"):
        mixture.partial_fit(x, window=60)
    with pytest.raises(ValueError, match="reg_covar: expected what the stream began with, the default"):
        mixture.partial_fit(x, reg_covar=0.1)
