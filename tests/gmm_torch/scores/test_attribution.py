import pytest
import torch

from gmm_torch.scores.attribution import half_gradient


@pytest.fixture
def precision():
    root = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return root @ root.mT + torch.eye(5, dtype=torch.float64)


def test_it_is_the_matrix_times_the_deviation(precision):
    v = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(half_gradient(lambda u: ((u @ precision) * u).sum(-1), v), v @ precision)


def test_it_works_where_gradients_are_switched_off(precision):
    v = torch.ones(1, 5, dtype=torch.float64)
    for switched_off in (torch.no_grad, torch.inference_mode):
        with switched_off():
            found = half_gradient(lambda u: ((u @ precision) * u).sum(-1), v)
        assert not found.requires_grad
        torch.testing.assert_close(found, v @ precision)


def test_shares_have_expectation_one(precision):
    noise = torch.randn(40_000, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    v = noise @ torch.linalg.inv(torch.linalg.cholesky(precision))  # covariance is the inverse of the precision
    shares = v * half_gradient(lambda u: ((u @ precision) * u).sum(-1), v)
    assert (shares.mean(0) - 1).abs().max() < 5 * shares.std(0).max() / 200  # five standard errors
