"""A mixture that follows moving points."""

import pytest
import torch

from gmm_torch import GaussianMixture, NotFittedError
from gmm_torch.mixture.online import OnlineMixture

TYPES = ("full", "tied", "diag", "spherical")


def points(n: int, seed: int = 0, spread: float = 1.0, n_clusters: int = 3) -> torch.Tensor:
    """Clusters in four dimensions."""
    generator = torch.Generator().manual_seed(seed)
    centres = spread * torch.tensor([[0.0, 0, 0, 0], [6, 0, 3, 0], [0, 6, 0, -3]])[:n_clusters]
    return centres[torch.randint(n_clusters, (n,), generator=generator)] + torch.randn(n, 4, generator=generator)


def started(covariance_type: str = "full", **options: int) -> OnlineMixture:
    follower = OnlineMixture(3, covariance_type, **options)
    follower.update(points(600))
    return follower.refit()


@pytest.mark.filterwarnings("ignore:.*non-meta parameter.*")
@pytest.mark.parametrize("covariance_type", TYPES)
def test_an_update_reads_no_number_from_the_device(covariance_type):
    # Reading from the device "meta" raises; it stands for a GPU, where reading waits.
    follower = OnlineMixture(3, covariance_type, every=2)
    follower.load_state_dict(started(covariance_type).state_dict(), device=None)
    follower.load_state_dict(follower.state_dict(), device="meta")
    follower._mixture = GaussianMixture(3, 4, covariance_type, device="meta")
    for _ in range(4):
        follower.update(torch.empty(64, 4, device="meta", requires_grad=True))
    assert follower._follower.n_updates == 2
    assert follower.mixture.log_prob(torch.empty(5, 4, device="meta")).shape == (5,)
    with pytest.raises(RuntimeError, match=r"[mM]eta"):
        follower.refit()  # which does read


@pytest.mark.parametrize("covariance_type", TYPES)
def test_it_follows_clusters_that_separate(covariance_type):
    follower = OnlineMixture(3, covariance_type, window=600, reg_covar=1e-3)
    for t in range(60):  # one cluster at first; at rest in the end
        follower.update(points(100, seed=t, spread=min(t / 20, 2)))
        if t % 10 == 9:
            follower.refit()
    late = points(2000, seed=999, spread=2)
    afterwards = GaussianMixture(3, 4, covariance_type).fit(late)
    assert follower.mixture.score(late) > afterwards.score(late) - 0.05


def test_steps_between_refits_follow_and_a_refit_moves_a_component_without_points():
    follower = OnlineMixture(3, window=600)
    follower.update(torch.cat([points(300, n_clusters=2), torch.full((300, 4), 50.0) + points(300, n_clusters=1)]))
    before = follower.refit().mixture.score(points(2000, seed=1))
    for t in range(30):  # far from the cluster at 50
        follower.update(points(100, seed=t))
    assert follower.mixture.score(points(2000, seed=1)) > before
    assert follower.mixture.weights.min() < 0.02
    assert follower.refit().mixture.weights.min() > 0.25  # three clusters, one component each


def test_a_drift_is_the_distance_to_the_nearest_earlier_component():
    before, order = started().mixture, torch.tensor([2, 0, 1])  # components have no order
    weights, means, covariances = before.weights, before.means, before.covariances
    same = GaussianMixture(3, 4).set_parameters(weights[order], means[order], covariances[order])
    assert same.drift_from(before) == pytest.approx(0, abs=1e-6)
    half, whole = (
        GaussianMixture(3, 4).set_parameters(weights, means + shift, covariances).drift_from(before).item()
        for shift in (0.5, 1.0)
    )
    assert whole == pytest.approx(4 * half, rel=1e-4)  # equal covariances: an eighth of a squared distance
    p, q = (
        GaussianMixture(1, 1).set_parameters(torch.ones(1), torch.tensor([[m]]), torch.tensor([[[v]]]))
        for m, v in ((1.0, 0.5), (0.0, 2.0))
    )
    x = torch.linspace(-30, 30, 200_001, dtype=torch.float64)[:, None]
    overlap = torch.trapezoid(((p.log_prob(x) + q.log_prob(x)) / 2).exp(), x[:, 0])
    torch.testing.assert_close(p.drift_from(q), -overlap.log(), rtol=1e-5, atol=1e-6)


def test_a_saved_state_continues_bit_for_bit():
    first, parts = started(every=3), points(1000, seed=7).split(100)
    first.update(parts[0])  # waits for two more
    second = OnlineMixture(3, every=3)
    second.load_state_dict(first.state_dict())
    for part in parts[1:]:
        first.update(part)
        second.update(part)
    assert first._follower.n_updates == second._follower.n_updates == 3
    assert torch.equal(first.mixture.means, second.mixture.means)
    assert torch.equal(first.refit().mixture.means, second.refit().mixture.means)


def test_finish_is_as_good_as_a_fit():
    follower, x = started(), points(3000, seed=4, spread=0.5)
    follower.finish(x, max_iter=100)
    afterwards = GaussianMixture(3, 4).fit(x, reg_covar=1e-2)
    assert follower.mixture.lower_bound > afterwards.lower_bound - 1e-6
    assert follower.mixture.converged
    means = follower.mixture.means.clone()
    follower.update(points(100))
    assert torch.equal(follower.mixture.means, means)


def test_too_few_points_start_nothing_and_bad_rows_are_left_out():
    follower = OnlineMixture(3)
    with pytest.raises(NotFittedError):
        _ = follower.refit().mixture
    for x in (points(59), torch.full((10, 4), torch.nan)):
        follower.update(x)
        assert not follower.refit().started
    follower.update(points(600))
    assert torch.isfinite(follower.refit().mixture.means).all()
    with pytest.raises(ValueError, match="finite"):
        follower.finish(torch.full((100, 4), torch.nan), 5)
    with pytest.raises(ValueError, match=r"shape \(N, 4\)"):
        follower.update(torch.zeros(3, 5))
