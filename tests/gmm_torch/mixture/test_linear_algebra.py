import pytest
import torch

from gmm_torch.mixture.linear_algebra import (
    covariance_factor,
    factor_of_covariance,
    factor_of_precision,
    precision_factor,
    require_positive,
    robust_cholesky,
)


def random_covariance(*lead: int, d: int = 4) -> torch.Tensor:
    a = torch.randn(*lead, d, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return a @ a.mT + 0.1 * torch.eye(d, dtype=torch.float64)


def test_positive_definite_matrices_are_factorised_without_jitter():
    covariance = random_covariance(3)
    factor, jitter = robust_cholesky(covariance)
    torch.testing.assert_close(factor @ factor.mT, covariance)
    assert (jitter == 0).all()


def test_jitter_is_spent_on_the_singular_matrix_alone():
    singular = torch.ones(4, 4, dtype=torch.float64)
    singular[0, 0] -= 1e-13
    factor, jitter = robust_cholesky(torch.stack([torch.eye(4, dtype=torch.float64), singular]))
    assert jitter[0] == 0
    assert 0 < jitter[1] < 1e-6
    torch.testing.assert_close(factor[1] @ factor[1].mT, singular, rtol=0, atol=1e-6)


def test_what_no_jitter_repairs_falls_back_to_the_diagonal():
    indefinite = torch.tensor([[1.0, 5.0], [5.0, 1.0]])
    factor, jitter = robust_cholesky(indefinite)
    assert torch.isinf(jitter)
    torch.testing.assert_close(factor, torch.eye(2))


def test_a_matrix_of_zeros_still_gets_a_factor():
    factor, _ = robust_cholesky(torch.zeros(3, 3))
    assert (factor.diagonal() > 0).all()
    assert torch.isfinite(factor).all()


def test_the_precision_factor_is_upper_and_whitens():
    covariance = random_covariance(2)
    upper, _ = precision_factor(covariance)
    assert torch.equal(upper, upper.triu())
    torch.testing.assert_close(upper @ upper.mT, torch.linalg.inv(covariance))
    torch.testing.assert_close(upper.mT @ covariance @ upper, torch.eye(4, dtype=torch.float64).expand(2, 4, 4))
    lower = covariance_factor(upper)
    torch.testing.assert_close(lower @ lower.mT, covariance)


def test_the_factor_of_a_precision_is_that_of_its_inverse():
    covariance = random_covariance(2)
    expected = factor_of_covariance(covariance, "c")
    torch.testing.assert_close(factor_of_precision(torch.linalg.inv(covariance), "p"), expected)


@pytest.mark.parametrize("bad", [-torch.eye(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]]), torch.full((2, 2), torch.nan)])
@pytest.mark.parametrize("check", [factor_of_covariance, factor_of_precision])
def test_a_matrix_that_is_no_covariance_is_named(check, bad):
    with pytest.raises(ValueError, match=r"thing: expected symmetric positive-definite matrices; .* \[1\]"):
        check(torch.stack([torch.eye(2), bad]), "thing")


def test_numbers_that_must_be_positive():
    assert require_positive(torch.tensor([1.0, 2.0]), "v").tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="v: expected finite numbers > 0; got -1"):
        require_positive(torch.tensor([1.0, -1.0]), "v")
