"""What every covariance family promises, checked for each that the registry finds."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.func import functional_call

from gmm_torch import GaussianMixture
from gmm_torch.mixture.covariance import FAMILIES, CovarianceFamily, Factors, get_family
from gmm_torch.mixture.parameters import Parameters

K, D, N, R = 3, 4, 40, 2

torch_options = {"dtype": torch.float64}


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> CovarianceFamily:
    return get_family(request.param)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def random_factors(family: CovarianceFamily, generator: torch.Generator, n_init: int | None = None) -> Factors:
    """Factors somewhere around unit covariances, with a leading dimension of `n_init` if given."""
    raw = family.unconstrain({name: value.double() for name, value in family.unit(K, D).items()})
    shapes = {name: value.shape if n_init is None else (n_init, *value.shape) for name, value in raw.items()}
    noise = {name: torch.randn(shape, generator=generator, **torch_options) for name, shape in shapes.items()}
    return family.constrain({name: raw[name] + 0.3 * noise[name] for name in raw})


def random_parameters(family: CovarianceFamily, generator: torch.Generator, n_init: int | None = None) -> Parameters:
    lead = () if n_init is None else (n_init,)
    log_weights = torch.randn(*lead, K, generator=generator, **torch_options).log_softmax(-1)
    means = torch.randn(*lead, K, D, generator=generator, **torch_options)
    return Parameters(log_weights, means, random_factors(family, generator, n_init))


def random_points(generator: torch.Generator) -> Tensor:
    return 2 * torch.randn(N, D, generator=generator, **torch_options)


def oracle(family: CovarianceFamily, parameters: Parameters) -> MultivariateNormal:
    return MultivariateNormal(parameters.means, family.dense(parameters.factors, K, D))


def mixture_of(family: CovarianceFamily, parameters: Parameters) -> GaussianMixture:
    mixture = GaussianMixture(K, D, family.name, **torch_options)
    return mixture.assign(parameters, torch.zeros(D, **torch_options))


def brute_force(family: CovarianceFamily, x: Tensor, r: Tensor, reg_covar: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (K,), means (K, D) and dense covariances (K, D, D) of weighted points, written out term by term."""
    counts = r.sum(1)
    means = (r[:, :, None] * x).sum(1) / counts[:, None]
    scatter = torch.zeros(K, D, D, **torch_options)
    for k in range(K):
        for n in range(len(x)):
            scatter[k] += r[k, n] * torch.outer(x[n] - means[k], x[n] - means[k])
    covariance = scatter / counts[:, None, None]
    dense = ORACLES[family.name](covariance, counts)
    added = reg_covar.mean().expand(D) if family.name == "spherical" else reg_covar
    return counts / counts.sum(), means, dense + torch.diag(added)


def variances(covariance: Tensor) -> Tensor:
    return covariance.diagonal(dim1=1, dim2=2)


# Where the maximum-likelihood covariances can be written down: from those of each component and its effective count.
ORACLES = {
    "full": lambda covariance, counts: covariance,
    "tied": lambda covariance, counts: (counts @ covariance.flatten(1) / counts.sum()).view(D, D).expand(K, D, D),
    "diag": lambda covariance, counts: torch.diag_embed(variances(covariance)),
    "spherical": lambda covariance, counts: torch.diag_embed(variances(covariance).mean(1, keepdim=True).expand(K, D)),
}


def is_shared(dense: Tensor) -> bool:
    return bool((dense == dense[:1]).all())


def test_distance_and_determinant_give_the_density_of_the_dense_form(family, generator):
    parameters, x = random_parameters(family, generator), random_points(generator)
    distance = family.squared_distance(x, parameters.means, parameters.factors)
    log_det = family.log_det(parameters.factors, D)
    assert distance.shape == (N, K)
    density = -0.5 * (D * math.log(2 * math.pi) + log_det + distance)
    torch.testing.assert_close(density, oracle(family, parameters).log_prob(x[:, None]), rtol=1e-10, atol=1e-10)


def test_any_stored_numbers_are_a_covariance(family, generator):
    shapes = {name: value.shape for name, value in family.unconstrain(family.unit(K, D)).items()}
    raw = {name: 2 * torch.randn(shape, generator=generator, **torch_options) for name, shape in shapes.items()}
    eigenvalues = torch.linalg.eigvalsh(family.dense(family.constrain(raw), K, D))
    assert (eigenvalues > 0).all()


def test_covariances_round_trip(family, generator):
    factors = random_factors(family, generator)
    back = family.from_covariances(family.covariances(factors, D))
    torch.testing.assert_close(family.dense(back, K, D), family.dense(factors, K, D), rtol=1e-9, atol=1e-9)


def test_precisions_round_trip_or_are_refused(family, generator):
    covariances = family.covariances(random_factors(family, generator), D)
    if type(family).from_precisions is CovarianceFamily.from_precisions:
        with pytest.raises(ValueError, match="precisions_init: expected none"):
            family.from_precisions(covariances)
        return
    precisions = torch.linalg.inv(covariances) if covariances.shape[-2:] == (D, D) else 1 / covariances
    back = family.from_precisions(precisions)
    torch.testing.assert_close(family.covariances(back, D), covariances, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", ["from_covariances", "from_precisions"])
def test_what_is_not_positive_definite_is_refused(family, method):
    unit = family.covariances(family.unit(K, D), D)
    with pytest.raises(ValueError, match="expected"):
        getattr(family, method)(-unit)
    with pytest.raises(ValueError, match="expected"):
        getattr(family, method)(unit * torch.nan)


def test_rescale_is_the_covariance_of_scaled_points(family, generator):
    factors = random_factors(family, generator)
    scale = torch.rand(D, generator=generator, **torch_options) + 0.5
    if not family.scales_features:
        scale = scale[0].expand(D)
    expected = family.dense(factors, K, D) * scale[:, None] * scale
    torch.testing.assert_close(family.dense(family.rescale(factors, scale), K, D), expected, rtol=1e-9, atol=1e-9)


def test_replace_changes_the_chosen_component_alone(family, generator):
    factors = random_factors(family, generator)
    chosen = torch.tensor([False, True, False])
    variance = torch.rand(D, generator=generator, **torch_options) + 0.5
    before, after = (family.dense(f, K, D) for f in (factors, family.replace(factors, chosen, family.fresh(variance))))
    torch.testing.assert_close(after[~chosen], before[~chosen])
    if is_shared(before):
        torch.testing.assert_close(after, before)
    else:
        expected = variance if family.scales_features else variance.mean().expand(D)
        torch.testing.assert_close(after[1].diagonal(), expected)
        # Diagonal, but for what a family needs to learn directions from.
        torch.testing.assert_close(after[1], torch.diag(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("reg_covar", [0.0, 0.01])
def test_log_joint_from_features_is_the_exact_one_less_the_penalty_of_reg_covar(family, generator, reg_covar):
    parameters, x = random_parameters(family, generator), random_points(generator)
    reg_covars = torch.full((D,), reg_covar, **torch_options)
    joint = family.log_joint(family.prepare(parameters, reg_covars), family.features(x.mT.contiguous()))
    dense = oracle(family, parameters)
    penalty = 0.5 * reg_covar * dense.precision_matrix.diagonal(dim1=-2, dim2=-1).sum(-1)
    expected = parameters.log_weights + dense.log_prob(x[:, None]) - penalty
    torch.testing.assert_close(joint, expected.mT, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", sorted(ORACLES))
def test_update_from_moments_is_the_weighted_maximum_likelihood(name, generator):
    family = get_family(name)
    parameters, x = random_parameters(family, generator), random_points(generator)
    reg_covar = torch.rand(D, generator=generator, **torch_options) / 10
    prepared, features = family.prepare(parameters, reg_covar), family.features(x.mT.contiguous())
    r = torch.rand(K, N, generator=generator, **torch_options)
    updated, jitter = family.update(family.moments(prepared, features, r), reg_covar, parameters)
    weights, means, dense = brute_force(family, x, r, reg_covar)
    torch.testing.assert_close(updated.log_weights.exp(), weights, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(updated.means, means, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(family.dense(updated.factors, K, D), dense, rtol=1e-8, atol=1e-10)
    assert (jitter == 0).all()


def test_moments_of_parts_add_up(family, generator):
    parameters, x = random_parameters(family, generator), random_points(generator)
    reg_covar = torch.zeros(D, **torch_options)
    prepared, columns = family.prepare(parameters, reg_covar), x.mT.contiguous()
    r = torch.rand(K, N, generator=generator, **torch_options)
    whole = family.moments(prepared, family.features(columns), r)
    total = family.moments(prepared, family.features(columns[:, :0]), r[:, :0])
    for part in (slice(0, 13), slice(13, None)):
        total = family.moments(prepared, family.features(columns[:, part].contiguous()), r[:, part], out=total)
    torch.testing.assert_close(total, whole, rtol=1e-10, atol=1e-10)


def test_a_workspace_changes_no_result(family, generator):
    parameters, x = random_parameters(family, generator, n_init=R), random_points(generator)
    prepared = family.prepare(parameters, torch.full((D,), 1e-3, **torch_options))
    features = family.features(x.mT.contiguous())
    scratch = torch.full((family.n_scratch(R, K, D, torch.device("cpu")) * N,), math.nan, **torch_options)
    plain, in_place = (family.log_joint(prepared, features, workspace) for workspace in (None, scratch))
    torch.testing.assert_close(in_place, plain, rtol=1e-13, atol=1e-13)
    r = plain.softmax(-2)
    zero = family.moments(prepared, features[:, :0], r[..., :0])
    expected = family.moments(prepared, features, r)
    actual = family.moments(prepared, features, r, zero, scratch)
    for name, value in expected.items():  # of "second" the lower triangle alone has a meaning
        lower = torch.tril if name == "second" else torch.clone
        torch.testing.assert_close(lower(actual[name]), lower(value), rtol=1e-12, atol=1e-12)


def test_a_component_without_points_stays_where_it_is(family, generator):
    parameters, x = random_parameters(family, generator), random_points(generator)
    reg_covar = torch.full((D,), 1e-6, **torch_options)
    prepared, features = family.prepare(parameters, reg_covar), family.features(x.mT.contiguous())
    r = torch.rand(K, N, generator=generator, **torch_options)
    r[1] = 0
    updated, _ = family.update(family.moments(prepared, features, r), reg_covar, parameters)
    torch.testing.assert_close(updated.means[1], parameters.means[1])
    before, after = (family.dense(p.factors, K, D) for p in (parameters, updated))
    if not is_shared(before):
        torch.testing.assert_close(after[1], before[1])
    assert updated.log_weights.exp()[1] < 1e-10
    torch.testing.assert_close(updated.log_weights.exp().sum(), torch.tensor(1.0, **torch_options))


def test_a_batch_of_mixtures_is_each_of_them(family, generator):
    parameters, x = random_parameters(family, generator, n_init=R), random_points(generator)
    reg_covar = torch.full((D,), 1e-3, **torch_options)
    features = family.features(x.mT.contiguous())

    def em_step(p: Parameters) -> tuple[Tensor, Parameters, Tensor]:
        prepared = family.prepare(p, reg_covar)
        joint = family.log_joint(prepared, features)
        moments = family.moments(prepared, features, joint.softmax(-2))
        return joint, *family.update(moments, reg_covar, p)

    joint, updated, jitter = em_step(parameters)
    assert joint.shape == (R, K, N)
    assert jitter.shape == (R, K)
    for i in range(R):
        single_joint, single, _ = em_step(parameters.map(lambda value, i=i: value[i]))
        torch.testing.assert_close(joint[i], single_joint)
        torch.testing.assert_close(vars(updated.map(lambda value, i=i: value[i])), vars(single))


def test_an_em_step_never_lowers_the_objective(family, generator):
    parameters, x = random_parameters(family, generator), random_points(generator)
    reg_covar = torch.full((D,), 0.05, **torch_options)
    features, before = family.features(x.mT.contiguous()), -math.inf
    for _ in range(15):
        prepared = family.prepare(parameters, reg_covar)
        joint = family.log_joint(prepared, features)
        objective = float(joint.logsumexp(-2).mean())
        assert objective >= before - 1e-12
        before = objective
        parameters, _ = family.update(family.moments(prepared, features, joint.softmax(-2)), reg_covar, parameters)


def test_the_pieces_of_the_precision_are_those_of_the_dense_form(family, generator):
    parameters = random_parameters(family, generator)
    precision = oracle(family, parameters).precision_matrix
    factors = parameters.factors
    expected = (precision @ parameters.means[..., None])[..., 0]
    torch.testing.assert_close(family.precision_times(parameters.means, factors), expected, rtol=1e-9, atol=1e-9)
    diagonal = family.precision_diagonal(factors, D).expand(K, D)
    torch.testing.assert_close(diagonal, precision.diagonal(dim1=-2, dim2=-1), rtol=1e-9, atol=1e-9)
    norm = family.precision_norm(factors, D).expand(K)
    torch.testing.assert_close(norm, torch.linalg.matrix_norm(precision), rtol=1e-9, atol=1e-9)


def test_free_parameters_are_the_directions_in_which_the_covariances_can_move(family, generator):
    raw = family.unconstrain(random_factors(family, generator))
    sizes = [value.numel() for value in raw.values()]

    def dense(flat: Tensor) -> Tensor:
        parts = zip(raw.items(), flat.split(sizes), strict=True)
        return family.dense(family.constrain({name: part.view_as(value) for (name, value), part in parts}), K, D)

    flat = torch.cat([value.flatten() for value in raw.values()])
    jacobian = torch.autograd.functional.jacobian(dense, flat).flatten(0, -2)
    rank, most = int(torch.linalg.matrix_rank(jacobian)), K * D * (D + 1) // 2
    assert rank == min(family.n_parameters(K, D), most)  # low rank has more parameters than full in few dimensions
    mixture = GaussianMixture(K, D, family.name)
    assert mixture.n_parameters() == family.n_parameters(K, D) + (K - 1) + K * D


def test_an_update_that_can_be_averaged_is_a_stationary_point(family, generator):
    if not family.averages:
        pytest.skip("its update only raises the objective: test_an_em_step_never_lowers_the_objective")
    parameters, x = random_parameters(family, generator), random_points(generator)
    reg_covar = torch.full((D,), 0.05, **torch_options)
    features = family.features(x.mT.contiguous())
    r = torch.rand(K, N, generator=generator, **torch_options)
    moments = family.moments(family.prepare(parameters, reg_covar), features, r)
    updated, _ = family.update(moments, reg_covar, parameters)
    variables = [updated.log_weights, updated.means, *family.unconstrain(updated.factors).values()]
    logits, means, *raw = (value.clone().requires_grad_() for value in variables)
    factors = family.constrain(dict(zip(updated.factors, raw, strict=True)))
    prepared = family.prepare(Parameters(logits.log_softmax(-1), means, factors), reg_covar)
    expected_log_joint = (r * family.log_joint(prepared, features)).sum()
    for gradient in torch.autograd.grad(expected_log_joint, (logits, means, *raw)):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-9)


def test_a_mixture_is_fitted_saved_and_read_again(family, generator, tmp_path):
    x = torch.cat([random_points(generator), random_points(generator) + 9])
    mixture = GaussianMixture(2, D, family.name, **torch_options).fit(x, max_iter=200, tol=1e-4)
    assert torch.isfinite(mixture.log_prob(x)).all()
    torch.save(mixture.state_dict(), tmp_path / "mixture.pt")
    other = GaussianMixture(2, D, family.name, **torch_options)
    other.load_state_dict(torch.load(tmp_path / "mixture.pt", weights_only=True))
    assert torch.equal(other.log_prob(x), mixture.log_prob(x))
    drawn = mixture.to_distribution().log_prob(mixture.sample(10))
    assert torch.isfinite(drawn).all()


def test_a_sample_has_the_mean_and_the_covariance_of_the_mixture(family, generator):
    parameters, n = random_parameters(family, generator), 40_000
    mixture = mixture_of(family, parameters)
    x = mixture.sample(n, seed=0)
    assert x.shape == (n, D)
    weights, means = parameters.log_weights.exp(), parameters.means
    mean = weights @ means
    centred = means - mean
    dense = family.dense(parameters.factors, K, D)
    covariance = (weights[:, None, None] * (dense + centred[:, :, None] * centred[:, None, :])).sum(0)
    # Standard errors estimated from the sample; five of them: a false-alarm rate below 1e-6 an entry.
    assert ((x.mean(0) - mean).abs() < 5 * x.std(0) / n**0.5).all()
    products = (x - mean)[:, :, None] * (x - mean)[:, None, :]
    assert ((products.mean(0) - covariance).abs() < 5 * products.std(0) / n**0.5).all()


def test_gradients_in_the_points_are_right(family, generator):
    mixture = mixture_of(family, random_parameters(family, generator))
    x = random_points(generator)[:5].requires_grad_()
    assert torch.autograd.gradcheck(mixture.log_prob, (x,))
    assert torch.autograd.gradgradcheck(mixture.log_prob, (x[:2],))


def test_gradients_in_the_stored_parameters_are_right(family, generator):
    mixture = mixture_of(family, random_parameters(family, generator))
    x = random_points(generator)[:5]
    state = {name: value.detach().clone().requires_grad_() for name, value in mixture.named_parameters()}

    def log_prob(*values: Tensor) -> Tensor:
        return functional_call(mixture, dict(zip(state, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(log_prob, tuple(state.values()))


def test_gradients_through_an_em_step_are_right(family, generator):
    parameters, x = random_parameters(family, generator), random_points(generator)
    reg_covar = torch.full((D,), 1e-3, **torch_options)
    names = list(parameters.factors)

    def em_step(points: Tensor, log_weights: Tensor, means: Tensor, *factors: Tensor) -> tuple[Tensor, ...]:
        p = Parameters(log_weights, means, dict(zip(names, factors, strict=True)))
        features, prepared = family.features(points.mT), family.prepare(p, reg_covar)
        joint = family.log_joint(prepared, features)
        updated, _ = family.update(family.moments(prepared, features, joint.softmax(-2)), reg_covar, p)
        return updated.log_weights, updated.means, family.dense(updated.factors, K, D)

    inputs = (x, parameters.log_weights, parameters.means, *parameters.factors.values())
    assert torch.autograd.gradcheck(em_step, tuple(value.detach().requires_grad_() for value in inputs))
