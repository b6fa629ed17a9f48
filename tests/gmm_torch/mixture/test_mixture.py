"""The mixture as a module: fitting whatever holds points, errors, densities, saving, tracing."""

import copy
import math
import shutil
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call, vmap

from gmm_torch import GaussianMixture, NotFittedError
from gmm_torch.mixture.covariance import FAMILIES

TYPES = sorted(FAMILIES)
N, D, K = 120, 3, 2

each_type = pytest.mark.parametrize("covariance_type", TYPES)


@pytest.fixture
def x() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, D, generator=generator)
    x[N // 2 :] += 5
    return x


def fitted(x: Tensor, covariance_type: str = "full", **options) -> GaussianMixture:
    mixture = GaussianMixture(K, D, covariance_type, dtype=x.dtype)
    return mixture.fit(x, **{"tol": 1e-6, "max_iter": 200, **options})


def assert_same(a: GaussianMixture, b: GaussianMixture, tolerance: float = 0.0) -> None:
    torch.testing.assert_close(dict(a.state_dict()), dict(b.state_dict()), rtol=tolerance, atol=tolerance)


# ---- what fit takes


def test_batches_that_dry_up_after_the_first_pass_are_an_error(x):
    class Once:
        left = [x]

        def __iter__(self):
            while self.left:
                yield self.left.pop()

    with pytest.raises(ValueError, match=r"expected the same points at every pass, of total weight 120 .* got 0"):
        GaussianMixture(K, D).fit(Once())


def test_the_points_are_left_as_they_are(x):
    before = x.clone()
    fitted(x)
    assert torch.equal(x, before)


# ---- what fit refuses


@pytest.mark.parametrize(
    ("value", "message"),
    [(torch.nan, "1 of 120 rows have NaN or infinity, the first is row 17"), (torch.inf, "row 17")],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_bad_numbers_are_named_by_their_row(x, value, message, streamed):
    x[17, 1] = value
    mixture = GaussianMixture(K, D)
    with pytest.raises(ValueError, match=message):
        mixture.fit(list(x.split(10)) if streamed else x)
    assert not mixture.fitted


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (torch.zeros(10, 4), ValueError, r"x: expected shape \(N, 3\); got \(10, 4\)"),
        ([torch.zeros(4, 3), torch.zeros(4, 2)], ValueError, r"x: expected shape \(N, 3\); got \(4, 2\)"),
        (np.zeros((10, 3), dtype=np.int32), TypeError, r"expected floating point; got int32"),
        (torch.zeros(1, 3), ValueError, r"at least as many points of positive weight as components \(2\); got 1"),
        ([], ValueError, r"got 0: give more data or fewer components"),
        (["text"], TypeError, r"x: expected a tensor or an array; got str"),
    ],
)
def test_what_is_not_points_is_refused(bad, error, message):
    with pytest.raises(error, match=message):
        GaussianMixture(K, D).fit(bad)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.ones(3), r"sample_weight: expected shape \(120,\); got \(3,\)"),
        (-torch.ones(N), "finite numbers >= 0"),
        (torch.full((N,), torch.nan), "finite numbers >= 0"),
        (torch.zeros(N), "at least one positive weight"),
        (torch.eye(N)[0], r"points of positive weight as components \(2\); got 1"),
    ],
)
def test_bad_weights_are_refused(x, weight, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(K, D).fit(x, sample_weight=weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_iter": 0}, "max_iter: expected at least 1; got 0"),
        ({"tol": float("nan")}, "tol: expected a finite number >= 0"),
        ({"reg_covar": -1e-6}, "reg_covar: expected a finite number >= 0"),
        ({"reg_mode": "odd"}, "reg_mode: expected .* got 'odd'"),
        ({"weight_concentration": 0.5}, "weight_concentration: expected a finite number >= 1; got 0.5"),
        ({"seed": None}, r"seed: expected a whole number; got None"),
        ({"init_params": "magic"}, "init_params: expected one of .*kmeans.*; got 'magic'"),
        ({"means_init": torch.zeros(3, 3)}, r"means_init: expected shape \(2, 3\); got \(3, 3\)"),
        ({"weights_init": torch.tensor([1.0, -1.0])}, "weights_init: expected numbers >= 0"),
        ({"weights_init": torch.zeros(2)}, "weights_init: expected numbers >= 0"),
        ({"precisions_init": -torch.eye(3).repeat(2, 1, 1)}, "precisions: expected symmetric positive-definite"),
    ],
)
def test_options_out_of_range_are_refused_before_work_starts(x, options, message):
    mixture = GaussianMixture(K, D)
    with pytest.raises(ValueError, match=message):
        mixture.fit(x, **options)
    assert not mixture.fitted


# ---- convergence


def test_converged_says_so_without_a_warning(x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mixture = fitted(x, max_iter=500)
    assert mixture.converged
    assert mixture.lower_bound == float(mixture.history[-1])
    assert mixture.score(x) == pytest.approx(mixture.lower_bound, abs=1e-4)


@pytest.mark.parametrize("change", ["partial_fit", "set_parameters", "load_state_dict"])
def test_what_is_known_of_a_fit_goes_with_its_parameters(x, change):
    mixture = fitted(x, max_iter=500)
    other = GaussianMixture(K, D).fit(x[:50])
    given = {
        "partial_fit": (x,),
        "set_parameters": (other.weights, other.means, other.covariances),
        "load_state_dict": (other.state_dict(),),
    }
    getattr(mixture, change)(*given[change])
    assert (mixture.n_points, mixture.converged, mixture.n_iter) == (0, False, 0)
    assert mixture.lower_bound == -math.inf
    assert not len(mixture.history)
    assert not mixture.jitter.any()


@pytest.mark.parametrize("call", ["partial_fit", "load_state_dict"])
def test_what_changes_no_parameter_leaves_what_is_known_of_the_fit(x, call):
    mixture = fitted(x, max_iter=500)
    known, means = repr(mixture), mixture.means.clone()
    if call == "partial_fit":
        mixture.partial_fit(x[:0])
    else:
        torch.nn.ModuleDict({"mixture": mixture}).load_state_dict({"others": torch.ones(1)}, strict=False)
    assert torch.equal(mixture.means, means)
    assert (repr(mixture), mixture.n_points, len(mixture.history)) == (known, len(x), mixture.n_iter)


def test_on_iteration_is_called_once_an_iteration(x):
    seen = []
    mixture = fitted(x, n_init=3, on_iteration=lambda n, value: seen.append((n, value.shape)))
    assert seen == [(n + 1, (3,)) for n in range(mixture.n_iter)]


@each_type
@pytest.mark.filterwarnings("ignore::gmm_torch.ConvergenceWarning")
def test_the_best_restart_is_kept(x, covariance_type):
    options = {"init_params": "random_from_data", "max_iter": 4, "tol": 0.0}
    best = GaussianMixture(5, D, covariance_type).fit(x, n_init=4, **options)
    single = GaussianMixture(5, D, covariance_type).fit(x, n_init=1, **options)
    assert best.lower_bound >= single.lower_bound - 1e-5


# ---- densities


def test_an_unfitted_mixture_says_what_to_do(x):
    mixture = GaussianMixture(K, D)
    for call in (
        mixture.log_prob,
        mixture.predict,
        mixture.predict_proba,
        mixture.score,
        mixture.bic,
        mixture.log_joint,
    ):
        with pytest.raises(NotFittedError, match=r"call fit\(x\) or set_parameters"):
            call(x)
    with pytest.raises(NotFittedError):
        mixture.sample(3)


@each_type
def test_densities_are_computed_in_the_widest_type_at_hand(x, covariance_type):
    mixture = fitted(x, covariance_type)
    expected = mixture.log_prob(x)
    assert expected.dtype == torch.float32
    wide = mixture.log_prob(x.double())
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide.float(), expected, rtol=1e-5, atol=1e-5)
    half = mixture.log_prob(x.half())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, mixture.log_prob(x.half().float()), rtol=0, atol=0)
    double = copy.deepcopy(mixture).double()
    assert double.log_prob(x).dtype == torch.float64
    torch.testing.assert_close(double.log_prob(x), wide, rtol=1e-6, atol=1e-6)


def test_a_float64_fit_far_from_the_origin_survives_float32_parameters():
    generator = torch.Generator().manual_seed(0)
    x = 1e7 + torch.randn(200, D, generator=generator, dtype=torch.float64)
    narrow, wide = (GaussianMixture(K, D, dtype=dtype).fit(x, max_iter=50) for dtype in (torch.float32, torch.float64))
    torch.testing.assert_close(narrow.log_prob(x), wide.log_prob(x), rtol=1e-4, atol=1e-4)


@each_type
def test_chunks_do_not_change_densities(x, covariance_type, monkeypatch):
    mixture = fitted(x, covariance_type)
    expected = [f(x) for f in (mixture.log_prob, mixture.log_joint, mixture.predict, mixture.predict_proba)]
    monkeypatch.setattr("gmm_torch.mixture.density._CHUNK_BYTES", {"host": 1, "accelerator": 1})
    actual = [f(x) for f in (mixture.log_prob, mixture.log_joint, mixture.predict, mixture.predict_proba)]
    torch.testing.assert_close(actual, expected)


def test_no_points_have_no_densities_and_no_score(x):
    mixture = fitted(x)
    assert mixture.log_prob(x[:0]).shape == (0,)
    assert mixture.predict_proba(x[:0]).shape == (0, K)
    with pytest.raises(ValueError, match="at least one point"):
        mixture.score(x[:0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": torch.tensor([0.5, 0.6])}, "weights: expected non-negative numbers that sum to 1"),
        ({"weights": torch.tensor([1.5, -0.5])}, "weights: expected non-negative numbers"),
        ({"means": torch.full((2, 3), torch.nan)}, "means: expected finite numbers"),
        ({"covariances": torch.eye(3)}, r"covariances: expected shape \(2, 3, 3\); got \(3, 3\)"),
        ({"covariances": torch.stack([torch.eye(3), -torch.eye(3)])}, r"positive-definite .* components \[1\]"),
    ],
)
def test_set_parameters_refuses_what_is_no_mixture(change, message):
    good = {"weights": torch.ones(2) / 2, "means": torch.zeros(2, 3), "covariances": torch.eye(3).repeat(2, 1, 1)}
    with pytest.raises(ValueError, match=message):
        GaussianMixture(K, D).set_parameters(**(good | change))


# ---- a real module


@each_type
def test_an_optimiser_can_move_every_parameter(x, covariance_type):
    mixture = fitted(x, covariance_type, max_iter=5, tol=1.0).requires_grad_()
    optimiser = torch.optim.Adam(mixture.parameters(), lr=1e-2)
    shifted = x + 1
    before = mixture.score(shifted)
    for _ in range(20):
        optimiser.zero_grad()
        (-mixture.log_prob(shifted).mean()).backward()
        assert all(parameter.grad is not None for parameter in mixture.parameters())
        optimiser.step()
    assert mixture.score(shifted) > before
    assert torch.isfinite(mixture.log_prob(shifted)).all()


@each_type
def test_vmap_over_batches_and_over_mixtures(x, covariance_type):
    mixture = fitted(x, covariance_type)
    batches = x.reshape(4, N // 4, D)
    torch.testing.assert_close(vmap(mixture.log_prob)(batches).flatten(), mixture.log_prob(x))
    other = fitted(x + 1, covariance_type)
    state = {
        name: torch.stack([a, b])
        for (name, a), b in zip(mixture.state_dict().items(), other.state_dict().values(), strict=True)
    }
    both = vmap(lambda values: functional_call(mixture, values, (x,)))(state)
    torch.testing.assert_close(both, torch.stack([mixture.log_prob(x), other.log_prob(x)]))


@pytest.mark.export
@each_type
def test_export_keeps_the_batch_dynamic(x, covariance_type):
    mixture = fitted(x, covariance_type)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(mixture, (x,), dynamic_shapes={"x": {0: batch}})
    module = program.module()
    for n in (1, 7, N):
        torch.testing.assert_close(module(x[:n]), mixture.log_prob(x[:n]))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
def test_log_prob_compiles_as_one_graph(x):
    of_each_type = torch.nn.ModuleDict({covariance_type: fitted(x, covariance_type) for covariance_type in TYPES})
    torch.compiler.reset()  # what other tests in this process compiled counts towards a limit of recompilations
    # Which vector instructions the compiler knows is taken for granted: to find out takes longer than all the rest.
    options = {"cpp.vec_isa_ok": True}

    @torch.compile(fullgraph=True, dynamic=True, options=options)
    def compiled(points: Tensor) -> dict[str, Tensor]:
        return {covariance_type: mixture(points) for covariance_type, mixture in of_each_type.items()}

    expected = {covariance_type: mixture.log_prob(x) for covariance_type, mixture in of_each_type.items()}
    torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-4)


# ---- on a GPU


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.filterwarnings("ignore::gmm_torch.ConvergenceWarning")
@each_type
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_gpu_gives_the_mixture_of_the_cpu(x, covariance_type, dtype):
    x = x.to(dtype)
    host = GaussianMixture(K, D, covariance_type, dtype=dtype).fit(x, max_iter=10, tol=0.0)
    card = GaussianMixture(K, D, covariance_type, dtype=dtype, device="cuda").fit(x, max_iter=10, tol=0.0)
    assert card.means.is_cuda
    torch.testing.assert_close(card.log_prob(x.cuda()).cpu(), host.log_prob(x), rtol=1e-4, atol=1e-4)
    loaded = GaussianMixture(K, D, covariance_type, dtype=dtype)
    loaded.load_state_dict(card.state_dict())
    torch.testing.assert_close(loaded.log_prob(x), host.log_prob(x), rtol=1e-4, atol=1e-4)
    moved = host.to("cuda").sample(10, 0)
    assert moved.is_cuda
