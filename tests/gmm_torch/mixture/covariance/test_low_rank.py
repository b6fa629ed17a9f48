"""Factor analysers: against scikit-learn's, and without a matrix of D x D anywhere."""

import pytest
import torch
from sklearn.decomposition import FactorAnalysis
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gmm_torch import GaussianMixture
from gmm_torch.mixture.covariance import get_family

pytestmark = pytest.mark.filterwarnings("ignore::gmm_torch.ConvergenceWarning")


def factor_data(n: int, d: int, q: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    loadings = torch.randn(d, q, generator=generator, dtype=torch.float64)
    noise = 0.3 + torch.rand(d, generator=generator, dtype=torch.float64)
    latent = torch.randn(n, q, generator=generator, dtype=torch.float64)
    return latent @ loadings.T + noise * torch.randn(n, d, generator=generator, dtype=torch.float64)


def test_one_component_is_the_factor_analysis_of_scikit_learn():
    x = factor_data(500, 8, 2)
    reference = FactorAnalysis(2, tol=1e-10, max_iter=5000, svd_method="lapack").fit(x.numpy())
    options = {"tol": 1e-9, "max_iter": 3000, "reg_covar": 0.0}
    mixture = GaussianMixture(1, 8, {"name": "low_rank", "rank": 2}, dtype=torch.float64).fit(x, **options)
    assert mixture.score(x) == pytest.approx(reference.score(x.numpy()), rel=1e-5)
    covariance = torch.tensor(reference.get_covariance())
    torch.testing.assert_close(mixture.dense_covariances[0], covariance, rtol=1e-2, atol=1e-2)


def test_the_first_update_finds_the_directions_of_the_data():
    # Far above the likelihood of independent features after two iterations, not after many.
    x = factor_data(2000, 30, 3)
    low_rank = GaussianMixture(1, 30, {"name": "low_rank", "rank": 3}).fit(x.float(), max_iter=3, tol=0.0)
    diag = GaussianMixture(1, 30, "diag").fit(x.float(), max_iter=3, tol=0.0)
    full = GaussianMixture(1, 30, "full").fit(x.float(), max_iter=3, tol=0.0)
    recovered = (low_rank.score(x) - diag.score(x)) / (full.score(x) - diag.score(x))
    assert recovered > 0.8


def test_two_clusters_with_directions_of_their_own_are_told_apart():
    # At one place: only the directions differ.
    x = torch.cat([factor_data(300, 6, 1, seed=1), factor_data(300, 6, 1, seed=2)])
    begin = {"init_params": "random", "n_init": 8}
    low_rank = GaussianMixture(2, 6, {"name": "low_rank", "rank": 1}).fit(x.float(), max_iter=500, tol=1e-6, **begin)
    label = low_rank.predict(x.float())
    agreement = float((label[:300] == 0).double().mean() + (label[300:] == 1).double().mean()) / 2
    assert max(agreement, 1 - agreement) > 0.75


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that an operation returned."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.numel = max(self.numel, leaf.untyped_storage().nbytes() // leaf.itemsize)
        return result


def test_no_tensor_is_as_large_as_the_dense_covariances():
    n, d, k, q = 256, 1024, 8, 4
    x = factor_data(n, d, 3).float()
    with Largest() as largest:
        mixture = GaussianMixture(k, d, {"name": "low_rank", "rank": q}).fit(x, max_iter=2, tol=0.0)
        mixture.log_prob(x)
        mixture.sample(10)
        mixture.bic(x)
    assert torch.isfinite(mixture.log_prob(x)).all()
    # One dense covariance has D^2 numbers; the widest thing here is a chunk of centred points.
    assert largest.numel < k * d * d / 3


def test_the_rank_is_an_option_of_the_type():
    assert GaussianMixture(2, 50, "low_rank").covariances.shape == (2, 50, 10 + 1)
    assert GaussianMixture(2, 50, {"name": "low_rank", "rank": 3}).covariances.shape == (2, 50, 4)
    assert GaussianMixture(2, 3, {"name": "low_rank", "rank": 7}).covariances.shape == (2, 3, 3)
    # q = 3 directions in D = 50: 50 * 3 loadings less 3 rotations, 50 variances, for each of two components.
    assert get_family({"name": "low_rank", "rank": 3}).n_parameters(2, 50) == 2 * (150 - 3 + 50)
