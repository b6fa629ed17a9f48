"""What the M-step of full covariances leaves out."""

import pytest
import torch

from gmm_torch import GaussianMixture
from gmm_torch.mixture.covariance import full, get_family
from gmm_torch.mixture.parameters import Parameters

D, K, N = 5, 6, 400


def scene(dtype: torch.dtype, weights: torch.Tensor) -> tuple[Parameters, torch.Tensor]:
    """Separated components, one of them with next to no points."""
    generator = torch.Generator().manual_seed(0)
    means = 8 * torch.randn(1, K, D, generator=generator, dtype=torch.float64)
    factor = torch.eye(D, dtype=torch.float64).expand(1, K, D, D).clone()
    label = torch.multinomial(weights, N, replacement=True, generator=generator)
    x = means[0, label] + torch.randn(N, D, generator=generator, dtype=torch.float64)
    return Parameters(weights.log()[None].to(torch.float64), means, {"factor": factor}), x.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e-9])
def test_points_that_count_for_nothing_can_be_left_out(dtype, scale, monkeypatch):
    weights = torch.tensor([0.3, 0.3, 0.2, 0.19, 0.00999, 1e-5])
    parameters, x = scene(dtype, weights)
    family = get_family("full")
    prepared = {k: v.to(dtype) for k, v in family.prepare(parameters, torch.zeros(D, dtype=torch.float64)).items()}
    features = family.features(x.mT.contiguous())
    r = family.log_joint(prepared, features).softmax(-2) * scale
    calls = []
    add_few = full._add_few
    monkeypatch.setattr(full, "_add_few", lambda *args: (calls.append(len(args[2])), add_few(*args)))
    found = {}
    for few in (0.0, 1.0):
        monkeypatch.setattr(full, "_FEW", few)
        zero = family.moments(prepared, features[:, :0], r[..., :0])
        found[few] = family.moments(prepared, features, r, out=zero)
    assert len(calls) == 1
    assert N <= calls[0] < 0.5 * K * N
    lower = {few: value["second"].tril() / scale for few, value in found.items()}
    tolerance = 100 * torch.finfo(dtype).eps
    size = lower[0.0].abs().amax((-2, -1))
    assert ((lower[0.0] - lower[1.0]).abs().amax((-2, -1)) <= tolerance * size + tolerance * N * 1e-5).all()
    torch.testing.assert_close(found[0.0]["moments"], found[1.0]["moments"], rtol=0, atol=0)


def test_a_fit_does_not_notice(monkeypatch):
    _, x = scene(torch.float32, torch.full((K,), 1 / K))
    fits = []
    for few in (0.0, 1.0):
        monkeypatch.setattr(full, "_FEW", few)
        fits.append(GaussianMixture(K, D).fit(x, means_init=x[:K].double(), reg_covar=1e-3))
    torch.testing.assert_close(fits[0].covariances, fits[1].covariances, rtol=1e-3, atol=1e-4)
    assert abs(fits[0].lower_bound - fits[1].lower_bound) < 1e-5
