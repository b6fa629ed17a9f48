"""Triangular factors, and the normal distribution function."""

import pytest
import torch
from scipy import special

from gmm_torch.mixture.linear_algebra import (
    covariance_factor,
    factor_of_covariance,
    factor_of_precision,
    log_normal_cdf,
    precision_factor,
    require_positive,
    robust_cholesky,
)


@pytest.fixture
def covariance() -> torch.Tensor:
    a = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return a @ a.mT + 0.1 * torch.eye(4, dtype=torch.float64)


def test_jitter_is_spent_only_on_singular_matrices(covariance):
    singular = torch.ones(4, 4, dtype=torch.float64)
    singular[0, 0] -= 1e-13
    factor, jitter = robust_cholesky(torch.stack([covariance[0], singular]))
    torch.testing.assert_close(factor[0] @ factor[0].mT, covariance[0])
    torch.testing.assert_close(factor[1] @ factor[1].mT, singular, rtol=0, atol=1e-6)
    assert jitter[0] == 0
    assert 0 < jitter[1] < 1e-6
    factor, jitter = robust_cholesky(torch.tensor([[1.0, 5.0], [5.0, 1.0]]))  # no jitter helps: the diagonal
    assert torch.isinf(jitter)
    torch.testing.assert_close(factor, torch.eye(2))
    assert (robust_cholesky(torch.zeros(3, 3))[0].diagonal() > 0).all()


def test_the_precision_factor_is_upper_and_whitens(covariance):
    upper, _ = precision_factor(covariance)
    assert torch.equal(upper, upper.triu())
    torch.testing.assert_close(upper.mT @ covariance @ upper, torch.eye(4, dtype=torch.float64).expand(2, 4, 4))
    lower = covariance_factor(upper)
    torch.testing.assert_close(lower @ lower.mT, covariance)
    torch.testing.assert_close(factor_of_precision(torch.linalg.inv(covariance), "p"), upper)


@pytest.mark.parametrize("bad", [-torch.eye(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]]), torch.full((2, 2), torch.nan)])
@pytest.mark.parametrize("check", [factor_of_covariance, factor_of_precision])
def test_a_matrix_that_is_no_covariance_is_named(check, bad):
    with pytest.raises(ValueError, match=r"thing: .* \[1\]"):
        check(torch.stack([torch.eye(2), bad]), "thing")
    with pytest.raises(ValueError, match="v: "):
        require_positive(torch.tensor([1.0, -1.0]), "v")


def test_the_log_normal_cdf_is_scipys_with_its_gradient():
    x = torch.linspace(-300, 9, 20_001, dtype=torch.float64)
    expected = torch.from_numpy(special.log_ndtr(x.numpy()))
    torch.testing.assert_close(log_normal_cdf(x), expected, rtol=4e-7, atol=2e-7)
    torch.testing.assert_close(log_normal_cdf(x.float()).double(), expected, rtol=1e-6, atol=1e-6)
    assert (log_normal_cdf(x) <= 0).all()
    for dtype in (torch.float32, torch.float64):
        far = torch.tensor([-1e2, -1e4, -4.5e4, -1e10, -1e18], dtype=dtype, requires_grad=True)
        log_normal_cdf(far).sum().backward()
        torch.testing.assert_close(far.grad, -far.detach(), rtol=1e-3, atol=0)  # the inverse Mills ratio is about -x
    near = torch.linspace(-8, 8, 101, dtype=torch.float64, requires_grad=True)
    log_normal_cdf(near).sum().backward()
    mills = torch.from_numpy((2 / torch.pi) ** 0.5 / special.erfcx(-near.detach().numpy() / 2**0.5))
    torch.testing.assert_close(near.grad, mills, rtol=1e-5, atol=1e-6)
