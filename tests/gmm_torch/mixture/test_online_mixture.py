"""A mixture that keeps up with points that move."""

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
def test_an_update_never_reads_a_number_from_the_device(covariance_type):
    # A tensor of the device "meta" has no numbers: whoever reads one raises. It stands for a GPU here, where reading
    # means waiting.
    state = started(covariance_type).state_dict()
    follower = OnlineMixture(3, covariance_type, every=2)
    follower.load_state_dict(state)
    follower.load_state_dict(follower.state_dict(), device="meta")
    follower._mixture = GaussianMixture(3, 4, covariance_type, device="meta")
    for _ in range(4):
        follower.update(torch.empty(64, 4, device="meta", requires_grad=True))
    assert follower._follower.n_updates == 2
    assert follower.mixture.log_prob(torch.empty(5, 4, device="meta")).shape == (5,)
    with pytest.raises(RuntimeError, match=r"[mM]eta"):
        follower.refit()  # which does read


@pytest.mark.parametrize("covariance_type", TYPES)
def test_it_keeps_up_with_clusters_that_come_apart(covariance_type):
    follower = OnlineMixture(3, covariance_type, window=600, reg_covar=1e-3)
    for t in range(60):  # at first there is one cluster; in the end they have come to rest
        follower.update(points(100, seed=t, spread=min(t / 20, 2)))
        if t % 10 == 9:
            follower.refit()
    late = points(2000, seed=999, spread=2)
    afterwards = GaussianMixture(3, 4, covariance_type).fit(late)
    assert follower.mixture.score(late) > afterwards.score(late) - 0.05


def test_steps_between_renewals_follow_too():
    follower = started(window=400)
    moved = points(2000, seed=1) + 1.5
    before = follower.mixture.score(moved)
    for part in moved.split(100):
        follower.update(part)
    assert follower.mixture.score(moved) > before + 1


def test_a_component_that_lost_its_points_is_placed_anew():
    follower = OnlineMixture(3, window=600)
    follower.update(torch.cat([points(300, n_clusters=2), torch.full((300, 4), 50.0) + points(300, n_clusters=1)]))
    follower.refit()
    for t in range(30):  # far from the cluster at 50, whose component starves
        follower.update(points(100, seed=t))
    assert follower.mixture.weights.min() < 0.02
    weights = follower.refit().mixture.weights
    assert weights.min() > 0.25  # three clusters, one component each


def test_a_drift_of_nothing_is_zero_and_grows_with_a_move():
    before = started().mixture
    same = GaussianMixture(3, 4)
    order = torch.tensor([2, 0, 1])  # components have no order
    same.set_parameters(before.weights[order], before.means[order], before.covariances[order])
    assert same.drift_from(before) == pytest.approx(0, abs=1e-6)
    drifts = []
    for shift in (0.5, 1.0):
        moved = GaussianMixture(3, 4).set_parameters(before.weights, before.means + shift, before.covariances)
        drifts.append(moved.drift_from(before).item())
    assert drifts[1] == pytest.approx(4 * drifts[0], rel=1e-4)  # equal covariances: an eighth of a squared distance


def test_the_drift_of_a_component_is_its_largest_overlap():
    p = GaussianMixture(1, 1).set_parameters(torch.ones(1), torch.tensor([[1.0]]), torch.tensor([[[0.5]]]))
    q = GaussianMixture(2, 1).set_parameters(
        torch.full((2,), 0.5), torch.tensor([[0.0], [3.0]]), torch.tensor([[[2.0]], [[1.0]]])
    )
    x = torch.linspace(-30, 30, 200_001, dtype=torch.float64)[:, None]
    densities = [torch.distributions.Normal(mean, variance**0.5).log_prob(x[:, 0]) for mean, variance in
                 ((1.0, 0.5), (0.0, 2.0), (3.0, 1.0))]  # fmt: skip
    overlaps = [torch.trapezoid(((densities[0] + other) / 2).exp(), x[:, 0]) for other in densities[1:]]
    torch.testing.assert_close(p.drift_from(q), -torch.stack(overlaps).max().log(), rtol=1e-5, atol=1e-6)


def test_a_saved_state_goes_on_bit_for_bit():
    first = started(every=3)
    parts = points(1000, seed=7).split(100)
    first.update(parts[0])  # waits for two more
    second = OnlineMixture(3, every=3)
    second.load_state_dict(first.state_dict())
    for part in parts[1:]:
        first.update(part)
        second.update(part)
    for follower in (first, second):
        assert follower.n_updates == 11
        assert follower._follower.n_updates == 3
    assert torch.equal(first.mixture.means, second.mixture.means)
    assert torch.equal(first.refit().mixture.means, second.refit().mixture.means)


def test_an_end_on_all_points_is_as_good_as_a_fit():
    follower = started()
    x = points(3000, seed=4, spread=0.5)
    follower.finish(x, max_iter=100)
    afterwards = GaussianMixture(3, 4).fit(x, reg_covar=1e-2)
    assert follower.mixture.lower_bound > afterwards.lower_bound - 1e-6
    assert follower.mixture.score(x) > afterwards.score(x) - 1e-3
    assert follower.mixture.converged
    means = follower.mixture.means.clone()
    follower.update(points(100))
    assert torch.equal(follower.mixture.means, means)


def test_too_few_points_start_nothing_and_bad_rows_are_left_out():
    follower = OnlineMixture(3)
    with pytest.raises(NotFittedError, match="expected a refit"):
        _ = follower.refit().mixture
    follower.update(points(59))
    assert not follower.refit().started
    follower.update(torch.full((10, 4), torch.nan))
    assert not follower.refit().started
    follower.update(points(600))
    assert torch.isfinite(follower.refit().mixture.means).all()
    with pytest.raises(ValueError, match="expected finite numbers"):
        follower.finish(torch.full((100, 4), torch.nan), 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window: expected at least 1"),
        ({"every": 0}, "every: expected at least 1"),
        ({"covariance_type": {"name": "low_rank", "rank": 2}}, "covariance_type"),
        ({"n_iter": 0}, "max_iter: expected at least 1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        OnlineMixture(**{"n_components": 3, **options})


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"expected shape \(N, D\)"):
        OnlineMixture(3).update(torch.zeros(3))
    with pytest.raises(ValueError, match=r"expected shape \(N, 4\)"):
        started().update(torch.zeros(3, 5))


def test_a_process_without_points_is_told_where_the_others_have_some(monkeypatch):
    monkeypatch.setattr("gmm_torch.mixture.online.sum_of_all", lambda n, device: 10_000)
    with pytest.raises(ValueError, match="expected points in every process; got none in this one"):
        OnlineMixture(2).refit()
