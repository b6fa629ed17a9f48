"""What is computed from a mixture, or from a stream: by a rule, by its definition, by another library."""

import math
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from gmm_torch import GaussianMixture
from gmm_torch.conformal.drift import DriftMonitor
from tests.equivalence.digits import detector, labels, split
from tests.equivalence.mixture import TYPES, D, K, N, points
from tests.equivalence.rows import Row, asked, near
from tests.equivalence.surroundings import bfloat16, within

KEPT = [2, 0]
REST = [1, 3]


@cache
def known(kind: str) -> GaussianMixture:
    """A mixture in float64, so that what is compared are formulas."""
    return GaussianMixture(K, D, kind, dtype=torch.float64).fit(points().double(), max_iter=7, tol=0.0, seed=3)


def dense(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights (K,), means (K, D), covariances (K, D, D)."""
    mixture = known(kind)
    return mixture.weights.numpy(), mixture.means.numpy(), mixture.dense_covariances.expand(K, D, D).numpy()


def by_scipy(kind: str, x: Tensor, features: Sequence[int]) -> np.ndarray:
    """log p of some features."""
    weights, means, covariances = dense(kind)
    index = list(features)
    parts = [
        math.log(w) + stats.multivariate_normal(m[index], c[np.ix_(index, index)]).logpdf(x[:, index].numpy())
        for w, m, c in zip(weights, means, covariances, strict=True)
    ]
    return np.logaddexp.reduce(parts, axis=0)


def holes(features: Sequence[int]) -> Tensor:
    """The points, all but some features missing."""
    x = torch.full_like(points().double(), torch.nan)
    x[:, list(features)] = points().double()[:, list(features)]
    return x


def joint_less_marginal(kind: str, n: int = 20) -> list[float]:
    """log p(rest | kept) = log p(all) - log p(kept)."""
    x = points().double()[:n]
    return (torch.from_numpy(by_scipy(kind, x, range(D)) - by_scipy(kind, x, KEPT))).tolist()


def conditionals(kind: str, n: int = 20) -> list[float]:
    """By `condition`, point by point."""
    x = points().double()[:n]
    return [float(known(kind).condition(KEPT, row[KEPT]).log_prob(row[REST][None])) for row in x]


def expectations(kind: str, n: int = 20) -> Tensor:
    """Means of the conditionals."""
    found = [known(kind).condition(KEPT, row[KEPT]) for row in points().double()[:n]]
    return torch.stack([mixture.weights @ mixture.means for mixture in found])


def complete(how: str) -> float:
    """Mean log-likelihood of fits to points without holes, run to their ends."""
    mixture, x = GaussianMixture(K, D, dtype=torch.float64), points().double()
    if how == "missing.fit":
        return mixture.fit(x, missing=True, max_iter=2000, tol=1e-9, seed=3).score(x)
    return mixture.fit(x, max_iter=2000, tol=1e-9, seed=3).score(x)


def with_holes(order: Tensor | None = None) -> Tensor:
    """Means of a fit to points of which a fifth is missing."""
    gone = torch.rand(N, D, generator=torch.Generator().manual_seed(9)) < 0.2
    gone[:, 0] = False
    x = points().double().masked_fill(gone, torch.nan)
    return (
        GaussianMixture(K, D, dtype=torch.float64)
        .fit(x if order is None else x[order], missing=True, max_iter=7, tol=0.0)
        .means
    )


def capital(sizes: Sequence[int]) -> dict[str, Any]:
    """Evidence of drift after a stream, told in parts."""
    generator = torch.Generator().manual_seed(0)
    monitor = DriftMonitor(torch.randn(99, generator=generator).mul(4).round(), seed=1)
    for part in (torch.randn(200, generator=generator).mul(4).round() - 1).split(list(sizes)):
        monitor.update(part)
    return {"capital": monitor.log_capital, "highest": monitor.windows[0].log_maximum, "alarm": monitor.alarm_at}


def explained(size: int) -> list[str]:
    """What the detector says in words."""
    return [str(each) for x in split("test")[:12].split(size) for each in detector().explain(x)]


def made_up(size: int) -> dict[str, Any]:
    """Error rates by component."""
    import copy

    pairs = zip(split("test")[:60].split(size), labels("test")[:60].split(size), strict=True)
    return {name: repr(found) for name, found in copy.deepcopy(detector()).component_report(list(pairs)).items()}


def table() -> list[Row]:
    """The rows of this theme."""
    ask = partial(asked, "calculus")
    rows: list[Row] = []
    for kind in TYPES:
        rows += ask(
            f"densities of some features under a {kind} mixture",
            {
                "SciPy": lambda k=kind: by_scipy(k, points().double(), KEPT),
                "marginal": near(lambda k=kind: known(k).marginal(KEPT).log_prob(points().double()[:, KEPT]), 1e-9),
                "missing.log_prob": near(lambda k=kind: known(k).log_prob(holes(KEPT), missing=True), 1e-9),
                "marginal of a marginal": near(
                    lambda k=kind: known(k).marginal([2, 3, 0]).marginal([0, 2]).log_prob(points().double()[:, KEPT]),
                    1e-9,
                ),
                "marginal, under autocast": near(
                    within(bfloat16, lambda k=kind: known(k).marginal(KEPT).log_prob(points().double()[:, KEPT])), 1e-9
                ),
            },
        )
        rows += ask(
            f"densities given some features under a {kind} mixture",
            {
                "joint less marginal": lambda k=kind: joint_less_marginal(k),
                "condition": near(lambda k=kind: conditionals(k), 1e-8),
                "condition, under autocast": near(within(bfloat16, lambda k=kind: conditionals(k)), 1e-8),
            },
        )
        rows += ask(
            f"expectations given some features under a {kind} mixture",
            {
                "condition": lambda k=kind: expectations(k),
                "missing.impute": near(lambda k=kind: known(k).impute(holes(KEPT)[:20])[:, REST], 1e-8),
            },
        )
        rows += ask(
            f"all features of a {kind} mixture",
            {
                "log_prob": lambda k=kind: known(k).log_prob(points().double()),
                "marginal of all": near(lambda k=kind: known(k).marginal(range(D)).log_prob(points().double()), 1e-9),
                "missing.log_prob, none missing": near(
                    lambda k=kind: known(k).log_prob(points().double(), missing=True), 1e-9
                ),
                "SciPy": near(lambda k=kind: by_scipy(k, points().double(), range(D)), 1e-9),
            },
        )
    rows += ask(
        "a fit to points of which none misses a feature",
        {"fit": lambda: complete("fit"), "missing.fit": near(lambda: complete("missing.fit"), 1e-4)},
    )
    rows += ask(
        "a fit to points that miss features",
        {
            "as they come": with_holes,
            "in another order": near(lambda: with_holes(torch.arange(N).flip(0)), 1e-6),
            "under autocast": within(bfloat16, with_holes),
        },
    )
    rows += ask(
        "evidence of drift in a stream",
        {
            "at once": lambda: capital([200]),
            "one by one": near(lambda: capital([1] * 200), 1e-9),
            "in parts": near(lambda: capital([7, 93, 0, 100]), 1e-9),
        },
    )
    rows += ask(
        "an explanation in words",
        {"of a batch": lambda: explained(12), "one by one": lambda: explained(1), "in fours": lambda: explained(4)},
    )
    rows += ask(
        "error rates of components",
        {"at once": lambda: made_up(60), "one by one": lambda: made_up(1), "in batches of 7": lambda: made_up(7)},
    )
    return rows
