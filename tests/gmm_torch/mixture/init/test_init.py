"""What every initialisation promises."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gmm_torch.mixture.init import INITIALISATIONS, get_initialisation
from gmm_torch.mixture.init.base import Draws, assign
from gmm_torch.mixture.init.kmeans import lloyd_step

each = pytest.mark.parametrize("name", sorted(INITIALISATIONS))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(90, 2, generator=generator()) + 20 * torch.arange(3).repeat_interleave(30)[:, None]


@each
def test_means_have_their_shape_and_are_finite(x, name):
    means = get_initialisation(name).means(x, torch.ones(90), 4, 3, generator())
    assert means.shape == (3, 4, 2)
    assert torch.isfinite(means).all()
    assert (means >= x.amin(0) - 1e-4).all()
    assert (means <= x.amax(0) + 1e-4).all()


@each
def test_fewer_distinct_points_than_components_are_no_trouble(name):
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    means = get_initialisation(name).means(x, torch.ones(2), 5, 2, generator())
    assert means.shape == (2, 5, 2)
    assert torch.isfinite(means).all()


@pytest.mark.parametrize("name", ["kmeans", "k-means++"])
def test_separate_clusters_get_a_mean_each(x, name):
    means = get_initialisation(name).means(x, torch.ones(90), 3, 5, generator())
    label = (means.mean(-1) / 20).round().long().sort(1).values
    assert torch.equal(label, torch.arange(3).expand(5, 3))


def test_points_without_weight_are_not_drawn(x):
    weight = torch.zeros(90)
    weight[:5] = 1
    for name in ("k-means++", "random_from_data"):
        means = get_initialisation(name).means(x, weight, 3, 4, generator()).flatten(0, 1)
        assert all(bool((x[:5] == mean).all(1).any()) for mean in means)


def test_an_empty_cluster_moves_to_the_furthest_point():
    x = torch.tensor([[0.0], [1.0], [10.0]])
    centres, inertia = lloyd_step(x, torch.ones(3), torch.tensor([[[0.5], [-100.0]]]))
    assert centres.flatten().tolist() == pytest.approx([11 / 3, 10.0])
    assert inertia.tolist() == pytest.approx([0.25 + 0.25 + 90.25])


def test_points_are_drawn_without_replacement_while_there_are_any():
    draws = Draws(torch.randn(4, 2, generator=generator()), generator())
    weight = torch.tensor([1.0, 2.0, 0.0, 4.0])
    index = draws.without_replacement(weight, 5, torch.arange(2000))
    assert (index[:, :3].sort(1).values == torch.tensor([0, 1, 3])).all()
    assert torch.equal(index[:, 3:], index[:, :2])
    # First 3, then 1, then 0: 4/7 * 2/3 = 0.381 of 2000, with a standard deviation of 22; five of them.
    assert abs(int((index[:, :3] == torch.tensor([3, 1, 0])).all(1).sum()) - 762) < 109


def test_draws_of_one_point_and_of_one_draw_are_independent():
    u = Draws(torch.randn(400, 3, generator=generator()), generator()).uniform(torch.arange(400)).double()
    assert u.min() >= 0
    assert u.max() <= 1
    centred = (u - 0.5) * 12**0.5
    for rows in (centred, centred.mT):
        correlation = (rows @ rows.mT / 400).fill_diagonal_(0)
        # 79,800 correlations of standard deviation 1/20: six of them are passed by chance once in 6,000 tables.
        assert correlation.abs().max() < 6 / 20
        assert (correlation.square().sum() / (400 * 399) * 400 - 1).abs() < 0.05


@each
@pytest.mark.parametrize("relative", [2.0**-24, 1e-6])
def test_other_last_digits_give_the_same_means(x, name, relative):
    noise = 2 * torch.rand(x.shape, generator=generator(5), dtype=torch.float64) - 1
    other = (x.double() * (1 + relative * noise)).float()
    assert not torch.equal(other, x)
    means, others = (get_initialisation(name).means(v, torch.ones(90), 4, 8, generator(1)) for v in (x, other))
    torch.testing.assert_close(others, means, rtol=1e-4, atol=1e-4)


@each
def test_one_point_more_changes_few_of_the_draws(x, name):
    weight, more = torch.ones(91), torch.cat([x[:1] + 0.5, x])
    means = get_initialisation(name).means(x, weight[1:], 3, 40, generator(1))
    others = get_initialisation(name).means(more, weight, 3, 40, generator(1))
    # The point wins one of the draws of a start with a probability below a tenth.
    assert ((others - means).abs().amax((1, 2)) < 0.5).sum() >= 30


def test_round_points_between_two_means_are_divided():
    x = torch.tensor([[0.0], [1.0], [2.0], [2.0 + 1e-6]])
    distance, share = assign(x, torch.tensor([[0.0], [2.0]]))
    torch.testing.assert_close(distance, torch.tensor([0.0, 1.0, 0.0, 0.0]))
    assert share.tolist() == [[1, 0], [0.5, 0.5], [0, 1], [0, 1]]


class Largest(TorchDispatchMode):
    """Keeps the size of the largest tensor that an operation made, in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.n_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            # A view takes no memory.
            if isinstance(value, Tensor) and value.numel() and 0 not in value.stride():
                self.n_bytes = max(self.n_bytes, value.numel() * value.element_size())
        return result


@each
def test_no_tensor_is_larger_than_a_chunk(monkeypatch, name):
    # Of (restarts, K, points) there would be 4 * 50 * 2000 numbers, 1.6 MB.
    monkeypatch.setattr("gmm_torch.devices.CHUNK_BYTES", {"host": 2**17, "accelerator": 2**17})
    x = torch.randn(2000, 4, generator=generator())
    with Largest() as largest:
        get_initialisation(name).means(x, torch.ones(2000), 50, 4, generator())
    assert 2**10 < largest.n_bytes <= 2**17


@each
def test_chunks_do_not_change_the_means(monkeypatch, x, name):
    whole = get_initialisation(name).means(x.double(), torch.ones(90).double(), 3, 2, generator())
    monkeypatch.setattr("gmm_torch.devices.CHUNK_BYTES", {"host": 1, "accelerator": 1})
    parts = get_initialisation(name).means(x.double(), torch.ones(90).double(), 3, 2, generator())
    torch.testing.assert_close(parts, whole, rtol=1e-10, atol=1e-10)
