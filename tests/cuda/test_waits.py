"""The host decides once every few iterations, and never waits for the device otherwise; nothing mixes devices."""

import pytest
import torch

from gmm_torch import GaussianMixture
from gmm_torch.devices import CHECK_EVERY, LOOKS
from gmm_torch.mixture.batches import Batches
from gmm_torch.mixture.online import OnlineMixture
from gmm_torch.mixture.options import EMOptions
from gmm_torch.mixture.stepwise import OnlineEM
from tests.cuda.card import ALLOWED, CARD, ONCE, HostWaitError, card

TYPES = ("full", "tied", "diag", "spherical", {"name": "low_rank", "rank": 3})
D, K, N = 12, 4, 50_000
EVERY = CHECK_EVERY["accelerator"]
each_type = pytest.mark.parametrize("covariance_type", TYPES, ids=str)


def started(covariance_type, n, **options):
    """EM after its initialisation on the card, and n points."""
    mixture = GaussianMixture(K, D, covariance_type, device=CARD)
    em = mixture.start_em(EMOptions(tol=0.0, max_iter=EVERY, init_params="random_from_data", **options))
    x = torch.randn(n, D, device=CARD)
    return em.run([(x, None)], until="iterate"), x


def online(covariance_type):
    """A stream that has started on the card."""
    mixture = GaussianMixture(K, D, covariance_type, device=CARD)
    mixture._seen_fitted = True
    follower = OnlineMixture(K, covariance_type)
    em = mixture.start_em(EMOptions(max_iter=EVERY, init_params="random_from_data"))
    follower._mixture, follower._follower = mixture, OnlineEM(em, n_first=1000)
    follower._follower.update(torch.randn(1000, D, device=CARD))
    return follower


@pytest.mark.parametrize(
    ("covariance_type", "options"),
    [*((each, {}) for each in TYPES), ("full", {"n_init": 3}), ("diag", {"prior_count": 1.0, "reg_mode": "absolute"})],
    ids=str,
)
def test_iterations_wait_for_one_look_in_five(monkeypatch, covariance_type, options):
    with card(monkeypatch, N) as watch:
        em, x = started(covariance_type, N, **options)
        watch.begin({})
        em.run([(x, torch.ones(N, device=CARD))])
        assert em.done
        assert watch.looks == {"convergence": 1}


@pytest.mark.parametrize("covariance_type", [TYPES[0], TYPES[-1]], ids=str)
def test_a_whole_fit_waits_in_places_that_are_listed_and_as_often_for_any_number_of_points(
    monkeypatch, covariance_type
):
    seen = []
    for n in (N, 20 * N):
        with card(monkeypatch, n) as watch:
            mixture = GaussianMixture(K, D, covariance_type, device=CARD)
            x = torch.randn(n, D, device=CARD)
            watch.begin(ALLOWED | ONCE)
            mixture.fit(x, max_iter=EVERY)
            assert mixture.means.device == CARD
            assert set(watch.looks) == set(LOOKS)
            assert watch.looks["convergence"] == 1
            assert watch.looks["k-means"] == 25 // EVERY - 1
            assert sum(watch.waits.values()) <= 12
            seen.append((watch.looks, watch.waits))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("covariance_type", [TYPES[0], TYPES[-1]], ids=str)
def test_float64_tensors_of_an_iteration_are_as_large_as_the_parameters_but_for_one_number_a_point(
    monkeypatch, covariance_type
):
    with card(monkeypatch, N) as watch:
        em, x = started(covariance_type, N)
        watch.begin({})
        em.run([(x, None)])
        assert watch.wide.pop(("gmm_torch/mixture/e_step.py", "_statistics")) == 8 * N  # the objective, to be summed
        assert max(watch.wide.values()) <= 8 * K * (D + 1) ** 2


def test_a_stream_waits_for_its_points_alone(monkeypatch):
    with card(monkeypatch, N) as watch:
        em, _ = started("full", N)
        watch.begin(ALLOWED)
        em.run(Batches([torch.randn(N // 5, D)] * 5, D, CARD))
        assert watch.waits == {("gmm_torch/mixture/batches.py", "_move"): 5 * EVERY}
        assert watch.looks == {"convergence": 1}


@pytest.mark.parametrize("covariance_type", TYPES[:4])
def test_stepwise_em_and_the_online_mixture_never_wait(monkeypatch, covariance_type):
    with card(monkeypatch, 1000) as watch:
        follower = online(covariance_type)
        watch.begin({})
        for _ in range(2):
            follower.update(torch.randn(256, D, device=CARD))
            assert follower.mixture.means.device == CARD
        assert not watch.looks


@each_type
def test_densities_never_wait(monkeypatch, covariance_type):
    with card(monkeypatch, N) as watch:
        mixture = GaussianMixture(K, D, covariance_type, device=CARD)
        mixture._seen_fitted = True
        x = torch.randn(N, D, device=CARD)
        watch.begin({})
        for found in (mixture.log_prob(x), mixture.predict(x), mixture.predict_proba(x)):
            assert found.device == CARD
            assert len(found) == N


@pytest.mark.parametrize("covariance_type", [*TYPES[:2], *TYPES[3:]], ids=str)  # `diag` has what `spherical` has
def test_nothing_grows_with_the_number_of_points_but_what_is_returned(monkeypatch, covariance_type):
    largest = []
    for n in (2**22, 2**24):
        with card(monkeypatch, n) as watch:
            em, _ = started(covariance_type, N)
            x = torch.randn(n, D, device=CARD)
            mixture = GaussianMixture(K, D, covariance_type, device=CARD)
            mixture._seen_fitted = True
            watch.begin({})
            em.collect([(x, None)])
            largest.append(watch.largest)
            assert watch.largest < 2**29
            watch.begin({})
            mixture.log_prob(x)
            assert watch.largest <= max(2**29, 4 * n)
    assert largest[1] < 2 * largest[0]  # four times as many points; chunks of one size share them evenly


@pytest.mark.parametrize("covariance_type", [TYPES[0], TYPES[-1]], ids=str)
def test_the_state_of_a_fit_goes_to_a_card_and_comes_back(monkeypatch, covariance_type):
    with card(monkeypatch, N) as watch:
        em, x = started(covariance_type, N)
        state = em.to(torch.device("cpu")).state_dict()
        assert {value.device.type for value in state["parameters"].values()} == {"cpu"}
        em.device = CARD
        em.load_state_dict(state)
        watch.begin(ONCE)
        em.run([(x, None)])
        assert em.done
        watch.begin(None)
        mixture, other = (GaussianMixture(K, D, covariance_type, device=where) for where in (CARD, "cpu"))
        other.load_state_dict(mixture.state_dict())
        assert other.means.device.type == "cpu"


BAD = {
    "an item": lambda x: x.sum().item(),
    "a list": lambda x: x[0].tolist(),
    "a condition": lambda x: bool((x > 0).any()),
    "a number": lambda x: float(x.amax()),
    "nonzero": lambda x: (x > 0).nonzero(),
    "a mask": lambda x: x[x[:, 0] > 0],
    "a mask that is set": lambda x: x.__setitem__(x > 0, 0.0),
    "a selection": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "unique in turn": lambda x: x[:, 0].unique_consecutive(),
    "unique rows": lambda x: x.unique(dim=0),
    "an index that is one tensor": lambda x: x[x[:, 0].argmax()],
    "equality": lambda x: torch.equal(x, x),
    "a copy to the host": lambda x: x.cpu(),
    "a copy from the host": lambda x: torch.ones(3).to(x.device),
    "a tensor of a number": lambda x: torch.tensor([1.0], device=x.device),
    "a checked factorisation": lambda x: torch.linalg.cholesky(x.T @ x),
    "a bincount": lambda x: x[:, 0].long().bincount(),
    "assignment of the host's": lambda x: x.copy_(torch.ones(5, 3)),
}


def test_operations_that_wait_are_found_in_the_midst_of_an_iteration(monkeypatch):
    with card(monkeypatch, N) as watch:
        em, x = started("diag", N)
        own = type(em.family).log_joint
        watch.begin(ALLOWED | ONCE)
        for bad in BAD.values():

            def log_joint(self, prepared, features, scratch=None, bad=bad):
                bad(torch.randn(5, 3, device=CARD))
                return own(self, prepared, features, scratch)

            monkeypatch.setattr(type(em.family), "log_joint", log_joint)
            with pytest.raises(HostWaitError, match="in tests:"):
                em.collect([(x, None)])


def test_a_tensor_on_the_wrong_device_is_found(monkeypatch):
    with card(monkeypatch, N), pytest.raises(Exception, match="same device"):
        torch.ones(3, device=CARD) + torch.ones(3)


def test_what_is_on_the_host_may_be_read(monkeypatch):
    with card(monkeypatch, N) as watch:
        watch.begin({})
        assert int(torch.ones(3).sum()) == 1
        assert not watch.waits
