"""P-values and tests: torch beside exact fractions, SciPy, and loops written out."""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from functools import cache, partial

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from gmm_torch.conformal.calibration import Calibration
from gmm_torch.conformal.conditional import BOUNDS, ConditionalCalibration
from gmm_torch.conformal.mondrian import MondrianCalibration
from gmm_torch.conformal.p_values import (
    calibration_size,
    conformal_p_value,
    smoothed_p_value,
    stream_uniforms,
    threshold_index,
)
from gmm_torch.conformal.selection import adjusted_p_values, discoveries
from gmm_torch.evaluation.hypothesis_tests import compare, holm
from gmm_torch.evaluation.rates import interval, upper_bound
from tests.equivalence.rows import Row, asked, near

SIZES = (19, 20, 59, 199, 1000)
ALPHAS = ("0.001", "0.01", "0.05", "0.1", "0.2", "0.3", "0.29", "0.7")


@cache
def calibration(n: int) -> Tensor:
    """(n,) float32, ascending, with ties."""
    return (4 * torch.randn(n, generator=torch.Generator().manual_seed(n))).round().div(4).sort().values


@cache
def scores(n: int) -> Tensor:
    """(60,) float32: some equal to calibration scores, some beyond all, some no numbers."""
    drawn = (4 * torch.randn(50, generator=torch.Generator().manual_seed(n + 1))).round().div(4)
    odd = torch.tensor([math.inf, -math.inf, math.nan, 1e30, -1e30])
    return torch.cat([drawn, calibration(n)[:5], odd])


def numbers(values: Tensor) -> list[float]:
    """What has no order counts as the least typical of all."""
    return [-math.inf if math.isnan(value) else value for value in values.tolist()]


def exact(n: int) -> list[Fraction]:
    """(1 + #{calibration <= score}) / (n + 1)."""
    given = calibration(n).tolist()
    return [Fraction(1 + sum(c <= score for c in given), n + 1) for score in numbers(scores(n))]


def by_scipy(n: int) -> np.ndarray:
    """By percentiles of a score among calibration scores."""
    shares = [stats.percentileofscore(calibration(n).numpy(), score, kind="weak") for score in numbers(scores(n))]
    return (1 + np.asarray(shares) / 100 * n) / (n + 1)


def smoothed(n: int) -> list[float]:
    """(#{calibration < score} + u (1 + #{calibration = score})) / (n + 1)."""
    given, uniforms = calibration(n).tolist(), stream_uniforms(len(scores(n)), seed=0).tolist()
    return [
        (sum(c < s for c in given) + u * (1 + sum(c == s for c in given))) / (n + 1)
        for s, u in zip(numbers(scores(n)), uniforms, strict=True)
    ]


def fitted(n: int) -> Calibration:
    """The calibration of the scores."""
    return Calibration().fit(calibration(n), 0.5)


def accepted(n: int) -> dict[str, list[bool]]:
    """p > alpha, in fractions, for every alpha."""
    return {alpha: [p > Fraction(alpha) for p in exact(n)] for alpha in ALPHAS}


def accepted_by(n: int, how: str) -> dict[str, list[bool]]:
    """The same in the library's numbers."""
    found = fitted(n)
    p, values = found.p_value(scores(n)), torch.tensor(numbers(scores(n)))
    if how == "p_value":
        return {alpha: (p > float(alpha)).tolist() for alpha in ALPHAS}
    if how == "p_value of float64 scores":
        wide = found.p_value(scores(n).double())
        return {alpha: (wide > float(alpha)).tolist() for alpha in ALPHAS}
    if how == "rank":
        rank = torch.searchsorted(calibration(n), values, right=True) + 1
        return {alpha: (rank > threshold_index(float(alpha), n)).tolist() for alpha in ALPHAS}
    return {alpha: (values >= found.threshold(float(alpha))).tolist() for alpha in ALPHAS}


def needed() -> list[int]:
    """The smallest n with 1 / (n + 1) <= alpha, by trying."""
    return [next(n for n in itertools.count() if Fraction(1, n + 1) <= Fraction(alpha)) for alpha in ALPHAS]


@cache
def classes(n: int) -> tuple[Tensor, Tensor]:
    """Predicted classes of the calibration scores, and of the scores that are asked about."""
    generator = torch.Generator().manual_seed(7)
    return torch.randint(3, (n,), generator=generator), torch.randint(3, (len(scores(n)),), generator=generator)


def by_class(n: int) -> list[Fraction]:
    """Each score among the calibration scores of its class, all of which are large enough to stand alone."""
    of, asking = classes(n)
    groups = [calibration(n)[of == c].tolist() for c in range(3)]
    return [
        Fraction(1 + sum(x <= score for x in groups[c]), len(groups[c]) + 1)
        for score, c in zip(numbers(scores(n)), asking.tolist(), strict=True)
    ]


def conditional(n: int) -> Tensor:
    """The bound of each rank."""
    ranks = [sum(c <= score for c in calibration(n).tolist()) for score in numbers(scores(n))]
    return BOUNDS["dkw"](n, 0.1)[ranks]


@cache
def samples() -> tuple[Tensor, Tensor]:
    """Two samples with ties."""
    generator = torch.Generator().manual_seed(0)
    return tuple((4 * (torch.randn(n, generator=generator) + off)).round().div(4) for n, off in ((80, 0.5), (60, 0.0)))  # type: ignore[return-value]


def superiority() -> float:
    """P(good > failure) + P(equal) / 2, pair by pair."""
    good, bad = (sample.tolist() for sample in samples())
    return sum((g > b) + 0.5 * (g == b) for g in good for b in bad) / (len(good) * len(bad))


P = (0.001, 0.2, 0.04, 0.011, 0.5, 0.03, 0.011, 1.0)


def holm_by_hand(p_values: Sequence[float]) -> list[float]:
    """Largest of (m - rank) p over the smaller ones."""
    m = len(p_values)
    order = sorted(range(m), key=lambda i: p_values[i])
    found, so_far = [0.0] * m, 0.0
    for rank, i in enumerate(order):
        so_far = max(so_far, min(1.0, (m - rank) * p_values[i]))
        found[i] = so_far
    return found


def table() -> list[Row]:
    """The rows of this theme."""
    ask = partial(asked, "p-values")
    rows: list[Row] = []
    for n in SIZES:
        rows += ask(
            f"p-values among {n} scores",
            {
                "fractions": lambda n=n: [float(p) for p in exact(n)],
                "conformal_p_value": near(lambda n=n: conformal_p_value(scores(n), calibration(n)).tolist(), 6e-8),
                "of float64 scores": lambda n=n: conformal_p_value(
                    scores(n).double(), calibration(n).double()
                ).tolist(),
                "Calibration": near(lambda n=n: fitted(n).p_value(scores(n)).tolist(), 6e-8),
                "Calibration, one by one": near(
                    lambda n=n: [float(fitted(n).p_value(s[None])) for s in scores(n)],
                    6e-8,
                ),
                "Calibration, fitted in another order": near(
                    lambda n=n: Calibration().fit(calibration(n).flip(0), 0.05).p_value(scores(n)).tolist(), 6e-8
                ),
                "SciPy's percentiles": near(lambda n=n: by_scipy(n).tolist(), 1e-12),
                "one class of MondrianCalibration": near(lambda n=n: _one_class(n), 6e-8),
            },
        )
        rows += ask(
            f"smoothed p-values among {n} scores",
            {
                "a loop": lambda n=n: smoothed(n),
                "smoothed_p_value": near(
                    lambda n=n: smoothed_p_value(scores(n), calibration(n), stream_uniforms(60, seed=0)).tolist(), 1e-12
                ),
                "draws in two parts": near(
                    lambda n=n: smoothed_p_value(
                        scores(n),
                        calibration(n),
                        torch.cat([stream_uniforms(17, seed=0), stream_uniforms(43, seed=0, start=17)]),
                    ).tolist(),
                    1e-12,
                ),
            },
        )
        rows += ask(
            f"accepted or refused among {n} scores, at {len(ALPHAS)} levels",
            {
                "fractions": lambda n=n: accepted(n),
                **{
                    how: (lambda n=n, how=how: accepted_by(n, how))
                    for how in ("p_value", "p_value of float64 scores", "rank", "threshold")
                },
            },
        )
    rows += ask(
        "how many calibration inputs a level needs",
        {"trying": needed, "calibration_size": lambda: [calibration_size(float(alpha)) for alpha in ALPHAS]},
    )
    rows += ask(
        "p-values by class",
        {
            "fractions": lambda: [float(p) for p in by_class(1000)],
            "MondrianCalibration": near(lambda: _mondrian(1000).tolist(), 6e-8),
        },
    )
    rows += ask(
        "p-values given the calibration set",
        {
            "the bound of the rank": lambda: conditional(199),
            "ConditionalCalibration": near(
                lambda: ConditionalCalibration(method="dkw").fit(calibration(199), 0.3).p_value(scores(199)), 6e-8
            ),
        },
    )
    rows += ask(
        "Mann and Whitney's test",
        {
            "SciPy": lambda: float(stats.mannwhitneyu(*map(np.asarray, samples()), alternative="greater").pvalue),
            "compare": near(lambda: compare(*samples()).mann_whitney_p, 1e-12, 1e-6),
        },
    )
    rows += ask(
        "Kolmogorov and Smirnov's test",
        {
            "SciPy": lambda: float(stats.ks_2samp(*map(np.asarray, samples()), alternative="less").pvalue),
            "compare": near(lambda: compare(*samples()).ks_p, 1e-12, 1e-6),
        },
    )
    rows += ask(
        "superiority", {"pair by pair": superiority, "compare": near(lambda: compare(*samples()).superiority, 1e-12)}
    )
    rows += ask(
        "Holm's correction",
        {
            "a loop": lambda: holm_by_hand(P),
            "holm": near(lambda: list(holm(P)), 1e-12),
            "in another order": near(lambda: list(holm(P[::-1]))[::-1], 1e-12),
        },
    )
    rows += ask(
        "p-values adjusted for false discoveries",
        {
            "SciPy": lambda: stats.false_discovery_control(P),
            "adjusted_p_values": near(lambda: adjusted_p_values(torch.tensor(P, dtype=torch.float64)), 1e-9),
            "in another order": near(
                lambda: adjusted_p_values(torch.tensor(P[::-1], dtype=torch.float64)).flip(0), 1e-9
            ),
        },
    )
    rows += ask(
        "discoveries",
        {
            "SciPy": lambda: (stats.false_discovery_control(P) <= 0.05).tolist(),
            "discoveries": lambda: discoveries(torch.tensor(P, dtype=torch.float64), 0.05).tolist(),
            "of float32": lambda: discoveries(torch.tensor(P), 0.05).tolist(),
        },
    )
    rows += ask(
        "Clopper and Pearson's interval",
        {
            "SciPy": lambda: tuple(stats.binomtest(7, 90).proportion_ci(0.95, method="exact")),
            "interval": near(lambda: tuple(interval(7, 90)), 1e-9),
            "two bounds": near(lambda: (1 - upper_bound(83, 90, 0.975), upper_bound(7, 90, 0.975)), 1e-9),
        },
    )
    return rows


def _one_class(n: int) -> list[float]:
    found = MondrianCalibration(1).fit(calibration(n), 0.05, predictions=torch.zeros(n, dtype=torch.long))
    return found.p_value(scores(n), torch.zeros(len(scores(n)), dtype=torch.long)).tolist()


def _mondrian(n: int) -> Tensor:
    of, asking = classes(n)
    return MondrianCalibration(3).fit(calibration(n), 0.05, predictions=of).p_value(scores(n), asking)
