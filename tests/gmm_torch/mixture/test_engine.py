"""EM as a machine: passes, state, and what it does when floating point runs out."""

import io

import pytest
import torch
from torch import Tensor

from gmm_torch import GaussianMixture
from gmm_torch.mixture.covariance import FAMILIES, get_family
from gmm_torch.mixture.em import EM
from gmm_torch.mixture.options import EMOptions

N, D, K = 150, 3, 3

pytestmark = pytest.mark.filterwarnings("ignore::gmm_torch.ConvergenceWarning")


@pytest.fixture
def x() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(K, N // K, D, generator=generator) + 3 * torch.arange(K)[:, None, None]).flatten(0, 1)


def machine(covariance_type: str = "full", **options) -> EM:
    return EM(get_family(covariance_type), K, D, EMOptions(**{"max_iter": 6, "tol": 0.0, **options}))


def run(em: EM, x: Tensor) -> EM:
    while not em.done:
        em.advance(em.collect([(part, None) for part in x.split(40)]))
    return em


def assert_same_state(a: EM, b: EM) -> None:
    mine, other = a.state_dict(), b.state_dict()
    assert mine.pop("phase") == other.pop("phase")
    torch.testing.assert_close(mine, other, rtol=0, atol=0)


@pytest.mark.parametrize("covariance_type", sorted(FAMILIES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_fit_that_is_killed_after_any_pass_resumes_bit_for_bit(x, covariance_type, dtype):
    # One component begins on two equal points, so that it is too ill-conditioned for float32 from the start.
    x = torch.cat([x, x.new_full((2, D), 50.0)]).to(dtype)
    options = EMOptions(max_iter=6, tol=0.0, n_init=2)
    family = get_family(covariance_type)
    expected = run(EM(family, K, D, options, dtype), x)
    em = EM(family, K, D, options, dtype)
    while not em.done:
        buffer = io.BytesIO()
        torch.save(em.state_dict(), buffer)
        buffer.seek(0)
        em = EM(family, K, D, options, dtype)
        em.load_state_dict(torch.load(buffer, weights_only=True))
        em.advance(em.collect([(part, None) for part in x.split(40)]))
    assert_same_state(em, expected)
    assert em.n_iter == expected.n_iter == 6


def test_passes_that_disagree_about_the_points_are_an_error(x):
    em = machine()
    em.advance(em.collect([(x, None)]))
    with pytest.raises(ValueError, match=r"expected the same points at every pass, of total weight 150 .* got 149"):
        em.advance(em.collect([(x[1:], None)]))


@pytest.mark.parametrize(("mode", "expected"), [("relative", [1.5, 1.5e4, 50.0]), ("absolute", [1.5, 1e4 + 0.5, 0.5])])
def test_regularisation_is_a_share_of_the_variance_or_a_variance(mode, expected):
    # Variances 1 and 10^4; the constant feature counts as their geometric mean.
    x = torch.tensor([[0.0, 0.0, 7.0], [2.0, 200.0, 7.0], [0.0, 200.0, 7.0], [2.0, 0.0, 7.0]])
    mixture = GaussianMixture(1, 3, "diag").fit(x, reg_covar=0.5, reg_mode=mode)
    torch.testing.assert_close(mixture.covariances, torch.tensor([expected]))


def test_the_jitter_of_a_covariance_that_could_not_be_factorised_is_reported():
    # Without regularisation the floor alone stands between these covariances and singularity.
    x = torch.randn(40, 1, generator=torch.Generator().manual_seed(0)).expand(-1, D)
    mixture = GaussianMixture(2, D).fit(x.contiguous(), reg_covar=0.0)
    assert mixture.jitter.shape == (2,)
    assert torch.isfinite(mixture.log_prob(x)).all()
