"""Hard inputs against every covariance type and number format, each held against exact EM in float64.

Run `python benchmarks/robustness.py` to write docs/robustness.md; the tests run some of the cells.

Every cell is fitted twice. From a given start, ten iterations (three of the widest) must end where a textbook EM ends
that works in float64, on standardised data, centring every point on every mean: the largest difference of a point's
log-likelihood, relative to that log-likelihood where it exceeds one nat. And from the default start, the
log-likelihoods of the fitted mixture must be those of its own parameters in float64.
"""

import argparse
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from gmm_torch import ConvergenceWarning, GaussianMixture

TYPES = ("full", "tied", "diag", "spherical")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
REG = 1e-6
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Case:
    """One kind of input.

    Attributes:
        name: as in the table.
        make: draws the points (N, D) in float64.
        n_components: K.
        n_iter: iterations from the given start.
        streamed: fitted from a list of batches in the order of the points, not from one tensor.
        slow: takes long; the tests have fewer points of it.
    """

    name: str
    make: Callable[[torch.Generator], Tensor]
    n_components: int = 3
    n_iter: int = 10
    streamed: bool = False
    slow: bool = False


def blobs(g: torch.Generator, n: int = 240, d: int = 4, k: int = 3) -> Tensor:
    """n points in k overlapping clusters of different shape, cluster after cluster."""
    centres = 3 * torch.randn(k, d, generator=g, dtype=torch.float64)
    mixing = torch.randn(k, d, d, generator=g, dtype=torch.float64) / 2
    noise = torch.randn(k, n // k, d, generator=g, dtype=torch.float64)
    return (centres[:, None] + noise @ mixing).flatten(0, 1)


def relu_features(g: torch.Generator, n: int, d: int, rank: int) -> Tensor:
    """Rank-deficient features of a ReLU layer: a few directions, most of them clipped at zero, some units dead."""
    low = torch.randn(n, rank, generator=g, dtype=torch.float64)
    map_ = torch.randn(rank, d, generator=g, dtype=torch.float64)
    features = (low @ map_ - 0.5).relu()
    features[:, :: max(2, d // 16)] = 0
    return features


def with_constants(g: torch.Generator) -> Tensor:
    """Blobs between a column of zeros and one of 1234.5."""
    x = blobs(g)
    return torch.cat([torch.zeros(len(x), 1, dtype=x.dtype), x, torch.full((len(x), 1), 1234.5, dtype=x.dtype)], 1)


def mixed_scales(g: torch.Generator) -> Tensor:
    """Blobs with features whose scales lie between 1e-3 and 1e3."""
    return blobs(g) * torch.logspace(-3, 3, 4, dtype=torch.float64)


def lone_points(g: torch.Generator) -> Tensor:
    """A cluster, and two points far from it and from each other."""
    x = blobs(g, 90, 4, 1)
    far = torch.tensor([[60.0, 0, 0, 0], [0, -70.0, 0, 0]], dtype=torch.float64)
    return torch.cat([far, x])


CASES = (
    Case("blobs", blobs),
    Case("mean 1e4", lambda g: blobs(g) + 1e4),
    Case("scale 1e-6", lambda g: blobs(g) * 1e-6),
    Case("scale 1e6", lambda g: blobs(g) * 1e6),
    Case("scales 1e-3 to 1e3", mixed_scales),
    Case("mean 1e4, scale 1e-1", lambda g: blobs(g) * 0.1 + 1e4),
    Case("constant columns", with_constants),
    Case("ten points, each 30 times", lambda g: blobs(g, 9, 4, 3).repeat(30, 1)),
    Case("all points equal", lambda g: torch.full((50, 4), 0.1, dtype=torch.float64)),
    Case("ReLU features, rank 5 of 16, N = 40", lambda g: relu_features(g, 40, 16, 5)),
    Case(
        "ReLU features, D = 512, N = 1000",
        lambda g: relu_features(g, 1000, 512, 100),
        n_components=10,
        n_iter=3,
        slow=True,
    ),
    Case("zeros and ones", lambda g: (torch.rand(200, 8, generator=g, dtype=torch.float64) < 0.3).double()),
    Case("N = K", lambda g: blobs(g, 6, 4, 3), n_components=6),
    Case("K = 1", blobs, n_components=1),
    Case("D = 1", lambda g: blobs(g, 240, 1)),
    Case("N = K = D = 1", lambda g: blobs(g, 3, 1)[:1], n_components=1),
    Case("one-point clusters", lone_points),
    Case("class-ordered stream", blobs, streamed=True),
)


def points(case: Case, dtype: torch.dtype) -> Tensor | None:
    """The case's points in `dtype`; None where the format can't hold them."""
    x = case.make(torch.Generator().manual_seed(0)).to(dtype)
    return x if bool(torch.isfinite(x).all()) else None


def typical_scale(x: Tensor, covariance_type: str) -> Tensor:
    """Standard deviations (D,) that regularisation is relative to; see `EMOptions.reg_mode`."""
    variance = (x - x.mean(0)).square().mean(0)
    if covariance_type == "spherical":
        variance = variance.mean().expand_as(variance)
    varies = variance > (x.mean(0).abs() * 1e-14).square()
    typical = variance[varies].log().mean().exp() if bool(varies.any()) else variance.new_tensor(1.0)
    return torch.where(varies, variance, typical).sqrt()


def exact_em(z: Tensor, means: Tensor, covariance_type: str, n_iter: int, penalised: bool = True) -> Tensor:
    """Log-likelihoods (N,) after textbook EM from equal weights and unit covariances.

    Args:
        z: (N, D), standardised, float64.
        means: (K, D), to start from.
        covariance_type: one of `TYPES`.
        n_iter: number of iterations.
        penalised: whether the E-step allows for the regularisation; see `EMOptions.reg_mode`.
    """
    (n, d), k = z.shape, len(means)
    eye = torch.eye(d, dtype=z.dtype)
    weights, covariances = z.new_full((k,), 1 / k), eye.repeat(k, 1, 1)
    for _ in range(n_iter):
        normal = MultivariateNormal(means, covariances, validate_args=False)  # Cholesky fails where it should
        penalty = 0.5 * REG * normal.precision_matrix.diagonal(dim1=1, dim2=2).sum(1) * penalised
        r = (weights.log() + normal.log_prob(z[:, None]) - penalty).softmax(1)
        mass = r.sum(0)
        alive = mass > 1e-12 * n
        safe = torch.where(alive, mass, torch.ones_like(mass))
        means = torch.where(alive[:, None], (r.mT @ z) / safe[:, None], means)
        centred = z[:, None] - means
        scatter = torch.einsum("nk,nki,nkj->kij", r, centred, centred)
        estimate = scatter / safe[:, None, None]
        if covariance_type == "tied":
            estimate, alive = (scatter.sum(0) / n).expand(k, d, d), torch.ones_like(alive)
        elif covariance_type == "diag":
            estimate = torch.diag_embed(estimate.diagonal(dim1=1, dim2=2))
        elif covariance_type == "spherical":
            estimate = estimate.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * eye
        covariances = torch.where(alive[:, None, None], estimate + REG * eye, covariances)
        weights = mass / n
    return log_likelihood(z, weights.log(), means, covariances)


def log_likelihood(x: Tensor, log_weights: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
    """Log-densities (N,) of a mixture with dense covariances (K, D, D), in the parameters' type."""
    return (log_weights + MultivariateNormal(means, covariances, validate_args=False).log_prob(x[:, None])).logsumexp(1)


def start(x: Tensor, k: int, scale: Tensor, covariance_type: str) -> dict[str, Tensor]:
    """Equal weights, evenly spaced points as means, the data's own variances."""
    means = x[torch.linspace(0, len(x) - 1, k).long()]
    precision = scale.square().reciprocal()
    precisions = {
        "full": torch.diag(precision).repeat(k, 1, 1),
        "tied": torch.diag(precision),
        "diag": precision.repeat(k, 1),
        "spherical": precision[0].repeat(k),
    }[covariance_type]
    return {"weights_init": x.new_full((k,), 1 / k), "means_init": means, "precisions_init": precisions}


def largest_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference, relative where the expected value exceeds one; infinite where anything is not finite."""
    error = ((actual - expected).abs() / expected.abs().clamp_min(1)).max()
    return float(error) if bool(torch.isfinite(actual).all()) else math.inf


def mixture_for(case: Case, x: Tensor, covariance_type: str) -> GaussianMixture:
    """An empty mixture with the parameters in float64 for float64 points, else in float32."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return GaussianMixture(case.n_components, x.shape[1], covariance_type, dtype=dtype)


def error_of_fit(case: Case, x: Tensor, covariance_type: str) -> float:
    """Error against exact EM, from the same start."""
    wide = x.double()
    scale = typical_scale(wide, covariance_type)
    location = wide.mean(0)
    begin = start(wide, case.n_components, scale, covariance_type)
    source = list(x.split(17)) if case.streamed else x
    mixture = mixture_for(case, x, covariance_type).fit(source, max_iter=case.n_iter, tol=0.0, reg_covar=REG, **begin)
    z, means = ((value - location) / scale for value in (wide, begin["means_init"]))
    expected = exact_em(z, means, covariance_type, case.n_iter)
    return largest_error(mixture.log_prob(x).double(), expected - scale.log().sum())


def error_of_evaluation(case: Case, x: Tensor, covariance_type: str) -> float:
    """Error of `log_prob` after a fit from the default start, against the mixture's own parameters in float64."""
    mixture = mixture_for(case, x, covariance_type).fit(x, max_iter=case.n_iter)
    actual = mixture.log_prob(x).double()
    mixture.double()
    covariances = mixture.dense_covariances
    scale = covariances.diagonal(dim1=1, dim2=2).mean(0).sqrt()
    expected = log_likelihood(
        (x.double() - mixture.location) / scale,
        mixture.weights.log(),
        mixture.centred_means / scale,
        covariances / (scale[:, None] * scale),
    )
    return largest_error(actual, expected - scale.log().sum())


def cell(case: Case, dtype: torch.dtype, covariance_type: str) -> float | None:
    """The larger of the two errors; None where the format can't hold the points."""
    x = points(case, dtype)
    if x is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return max(error_of_fit(case, x, covariance_type), error_of_evaluation(case, x, covariance_type))


def table() -> str:
    """The matrix as Markdown."""
    columns = [(dtype, name) for dtype in DTYPES for name in TYPES]
    header = ["input", *(f"{str(dtype).removeprefix('torch.')} {name}" for dtype, name in columns)]
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " --- |" * len(columns)]
    for case in CASES:
        errors = [cell(case, dtype, name) for dtype, name in columns]
        shown = ["–" if error is None else f"{error:.0e}" for error in errors]
        lines.append(f"| {case.name} | " + " | ".join(shown) + " |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs" / "robustness.md")
    output = parser.parse_args().output
    introduction = (__doc__ or "").split("\n\n", 2)[2].strip()
    page = f"""# Hard inputs

{introduction}

The table shows the larger of the two errors. The tests demand less than {TOLERANCE:g} in every cell that they run.
A dash: the format can't hold the numbers (float16 ends at 65,504). The reference sees points as rounded to the format.

{table()}

Made by `python benchmarks/robustness.py`.
"""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page)
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
