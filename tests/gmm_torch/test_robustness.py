"""Hard inputs: never raises, never NaN, and agrees with exact EM in float64; cells of the benchmark, which has more."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from sklearn.mixture import GaussianMixture as Reference

from gmm_torch import GaussianMixture


def load_benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "robustness.py"
    spec = importlib.util.spec_from_file_location("robustness", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


robustness = load_benchmark()
# The widest features with fewer points and components, of as low a rank.
WIDE = {"make": lambda generator: robustness.relu_features(generator, 300, 512, 100), "n_components": 3}
CASES = [replace(case, **WIDE) if case.slow else case for case in robustness.CASES]
# Every input with every covariance type in float32, the hard format, and with every other format once; every format
# meets every type.
CELLS = [
    pytest.param(case, covariance_type, dtype, id=f"{dtype}-{covariance_type}-{case.name}")
    for number, case in enumerate(CASES)
    for shift, dtype in enumerate(robustness.DTYPES)
    for place, covariance_type in enumerate(robustness.TYPES)
    if dtype == torch.float32 or (not case.slow and (number + shift + place) % len(robustness.TYPES) == 0)
]


@pytest.mark.parametrize(("case", "covariance_type", "dtype"), CELLS)
def test_every_input_is_fitted_as_exactly_as_float64_would(case, covariance_type, dtype):
    error = robustness.cell(case, dtype, covariance_type)
    if error is None:
        pytest.skip(f"{dtype} can't hold these numbers")
    assert error < robustness.TOLERANCE


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("covariance_type", robustness.TYPES)
def test_the_exact_em_of_the_cells_is_that_of_scikit_learn(covariance_type):
    x = robustness.points(robustness.CASES[0], torch.float64)
    z = (x - x.mean(0)) / robustness.typical_scale(x, covariance_type)
    begin = robustness.start(z, 3, torch.ones(4, dtype=torch.float64), covariance_type)
    reference = Reference(
        3,
        covariance_type=covariance_type,
        max_iter=10,
        tol=0.0,
        reg_covar=robustness.REG,
        **{name: value.numpy() for name, value in begin.items()},
    ).fit(z.numpy())
    actual = robustness.exact_em(z, begin["means_init"], covariance_type, 10, penalised=False)
    torch.testing.assert_close(actual, torch.tensor(reference.score_samples(z.numpy())), rtol=1e-8, atol=1e-8)


@pytest.mark.filterwarnings("ignore::gmm_torch.ConvergenceWarning")
def test_a_component_that_collapses_at_once_is_summed_again_in_float64():
    # Two points share the third component: their covariance is singular, which float32 sums would turn into noise.
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(400, 32, generator=generator), 40 + torch.randn(2, 32, generator=generator)])
    begin = {
        "means_init": torch.stack([x[0], x[1], x[-1]]),
        "precisions_init": torch.eye(32).repeat(3, 1, 1),
        "weights_init": torch.ones(3),
    }
    fits = [GaussianMixture(3, 32, dtype=dtype) for dtype in (torch.float32, torch.float64)]
    for mixture in fits:
        mixture.fit(x.to(mixture.means.dtype), max_iter=8, tol=0.0, **begin)
        assert (mixture.jitter == 0).all()
    expected = fits[1].log_prob(x.double())
    torch.testing.assert_close(fits[0].log_prob(x).double(), expected, rtol=1e-4, atol=1e-4)
