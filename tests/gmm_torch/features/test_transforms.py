import numpy as np
import pytest
import torch
from sklearn.preprocessing import PowerTransformer, StandardScaler

from gmm_torch.features import transforms
from gmm_torch.features.transforms import TRANSFORMS, yeo_johnson
from gmm_torch.scores import make_score


def skewed(n=1500, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    return torch.stack([z[:, 0].exp(), z[:, 1], -(z[:, 2].exp()), 50 + 3 * z[:, 3] + z[:, 0]], 1)


def fitted(name, z):
    return TRANSFORMS[name](z.shape[1]).to(z).fit(z)


def test_standardise_is_scikit_learns():
    z = skewed()
    np.testing.assert_allclose(fitted("standardise", z)(z).numpy(), StandardScaler().fit_transform(z.numpy()))


def test_power_is_scikit_learns_on_standardised_features():
    z = skewed()
    standard = StandardScaler().fit_transform(z.numpy())
    expected = PowerTransformer().fit_transform(standard)
    np.testing.assert_allclose(fitted("power", z)(z).numpy(), expected, atol=1e-3)


def test_the_power_is_the_papers_formula_and_differentiable_everywhere():
    z = torch.tensor([-3.0, -0.5, 0.0, 0.5, 3.0], dtype=torch.float64)
    for exponent in (-1.0, 0.0, 0.5, 1.0, 2.0, 3.0):
        found = yeo_johnson(z[:, None], torch.tensor([exponent], dtype=torch.float64))[:, 0].numpy()
        expected = [_yeo_johnson(float(value), exponent) for value in z]
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
        x = z.clone().requires_grad_()
        yeo_johnson(x[:, None], torch.tensor([exponent], dtype=torch.float64)).sum().backward()
        assert (x.grad > 0).all()
        assert torch.isfinite(x.grad).all()


def _yeo_johnson(z, exponent):
    if z >= 0:
        return np.log1p(z) if exponent == 0 else ((z + 1) ** exponent - 1) / exponent
    return -np.log1p(-z) if exponent == 2 else -((1 - z) ** (2 - exponent) - 1) / (2 - exponent)


def test_whitened_features_are_uncorrelated_and_of_unit_variance_the_widest_direction_first():
    z = skewed()
    found = fitted("whiten", z)(z)
    covariance = np.cov(found.numpy().T, bias=True)
    np.testing.assert_allclose(covariance, np.eye(4), atol=1e-8)
    widest = np.linalg.svd((z - z.mean(0)).numpy(), full_matrices=False)[2][0]
    along = (z - z.mean(0)).numpy() @ widest
    assert abs(np.corrcoef(along, found[:, 0].numpy())[0, 1]) == pytest.approx(1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_the_signed_root_is_one_function_in_every_type(dtype, tolerance):
    size = torch.cat([torch.zeros(1), torch.logspace(-12, 4, 200)])
    z = torch.cat([-size.flip(0), size]).to(dtype)
    root = TRANSFORMS["signed_root"](1)
    wide = root(z.double())
    torch.testing.assert_close(root(z).double(), wide, rtol=tolerance, atol=0)
    torch.testing.assert_close(wide.square() * z.double().sign(), z.double(), rtol=1e-2, atol=2e-4)


def test_the_signed_root_rises_without_a_jump_and_with_a_bounded_slope():
    z = torch.cat([-torch.logspace(1, -15, 400), torch.zeros(1), torch.logspace(-15, 1, 400)]).double()
    z.requires_grad_()
    root = TRANSFORMS["signed_root"](1)(z)
    (slope,) = torch.autograd.grad(root.sum(), z)
    largest = 0.5 * 2**11.5
    assert root[400] == 0
    assert (root.diff() > 0).all()
    assert (root.diff() <= z.diff() * largest * (1 + 1e-9)).all()
    assert ((slope > 0) & (slope <= largest * (1 + 1e-9))).all()
    assert float(slope.detach()[400]) == pytest.approx(largest)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_transform_keeps_the_shape_is_finite_and_takes_constant_features(name):
    z = torch.cat([skewed().float(), torch.full((1500, 1), 7.0)], dim=1)
    transform = fitted(name, z)
    for given in (z, z[:1], z.reshape(3, 500, 5)):
        found = transform(given)
        assert found.shape == given.shape
        assert found.dtype == given.dtype
        assert torch.isfinite(found).all()
    x = z[:20].clone().requires_grad_()
    transform(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    alone = fitted(name, torch.ones(30, 2))
    assert torch.isfinite(alone(torch.ones(3, 2))).all()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_what_is_learnt_is_in_the_state(name):
    z = skewed().float()
    fresh = TRANSFORMS[name](4)
    fresh.load_state_dict(fitted(name, z).state_dict())
    assert torch.equal(fresh(z), fitted(name, z)(z))


@pytest.mark.parametrize("few", [300, 5000])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_classes_in_order_teach_what_a_shuffled_set_teaches(name, few, monkeypatch):
    monkeypatch.setattr(transforms, "MAX_ROWS", few)
    monkeypatch.setattr(transforms, "MAX_POWER_ROWS", few)
    z = skewed().float()
    z = torch.cat([z + 20 * c for c in range(3)])  # one class after another
    shuffled = z[torch.randperm(len(z), generator=torch.Generator().manual_seed(1))]
    in_order, mixed = fitted(name, z), fitted(name, shuffled)
    for learnt, other in zip(in_order.state_dict().values(), mixed.state_dict().values(), strict=True):
        assert torch.equal(learnt, other)
    if name == "standardise":  # and it is that of the whole: four standard errors of 300 draws
        torch.testing.assert_close(in_order.location, z.mean(0), rtol=0, atol=float(4 * z.std(0).max() / few**0.5))


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(ValueError, match="none, unit, signed_root, standardise, power, whiten; got 'log'"):
        make_score("log_likelihood", transform="log")
