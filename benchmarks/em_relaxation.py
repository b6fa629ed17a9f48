"""Passes over the data that over-relaxed EM and a start on a part of the points save, on features of real networks.

    python benchmarks/em_relaxation.py resnet20.npy vit.npy ...   # (N, D) float32 each, some ten minutes
    python benchmarks/em_relaxation.py --page                     # only writes the table again

Of each file a random 8,000 rows are fitted from five starts (k-means of seeds 0 to 4) until `PATIENCE` iterations in a
row gain less than `TOL` and move no component to other points. Passes do not depend on the machine. Over-relaxed: each
parameter is moved by `step` times what EM moves it (Salakhutdinov, Roweis 2003); the step grows by a fifth an iteration
up to 1.9, below which EM converges locally; where the objective falls, EM's own last update is taken in place of it,
and the step is one again, as it is after a component was moved. On a part: at most `PART_ITER` iterations of EM on a
random quarter, whose passes count a quarter, and from there on all points. Writes
`benchmarks/results/em_relaxation.json` and the table of docs/speed.md.
"""

import argparse
import json
import statistics
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pages import RESULTS, ROOT, fill, save, table, versions_text
from problems import facts
from torch import Tensor

from gmm_torch import GaussianMixture
from gmm_torch.mixture.em import EM
from gmm_torch.mixture.options import EMOptions
from gmm_torch.mixture.parameters import Parameters
from gmm_torch.mixture.sampling import sample_rows
from gmm_torch.mixture.statistics import Statistics

RESULT = RESULTS / "em_relaxation.json"
N, K, STARTS, TOL, PATIENCE, PART_ITER, MAX_ITER = 8_000, 50, 5, 1e-3, 2, 50, 600
GROWTH, LARGEST = 1.2, 1.9


class OverRelaxed(EM):
    """One mixture; diagonals of factors are moved in their logarithms, so they stay positive."""

    step, best_objective, plain = 1.0, -float("inf"), None

    def _iterate(self, total: Statistics) -> None:
        before, n_iter, n_reseeded = self.parameters, self.n_iter, self.n_reseeded
        super()._iterate(total)
        if self.n_iter == n_iter or self.done:
            return
        objective = float(self.history[-1])
        if self.plain is not None and objective < self.best_objective:
            self.step = 1.0
            self._adopt(self.plain)
            return
        self.plain, self.best_objective = self.parameters, objective
        if not torch.equal(n_reseeded, self.n_reseeded):  # the next objective may be below this one
            self.step, self.best_objective = 1.0, -float("inf")
            return
        self._adopt(moved(before, self.parameters, self.step))
        self.step = min(self.step * GROWTH, LARGEST)


def moved(before: Parameters, after: Parameters, step: float) -> Parameters:
    """From `before` by `step` times the way to `after`."""
    log_weights = torch.lerp(before.log_weights, after.log_weights, step).log_softmax(-1)
    old, new = before.factors["factor"], after.factors["factor"]
    if old.dim() > 3:  # triangular: (R, K, D, D)
        diagonals = (value.diagonal(dim1=-2, dim2=-1).log() for value in (old, new))
        diagonal = torch.diag_embed(torch.lerp(*diagonals, step).exp())
        factor = torch.lerp(old, new, step).triu(1) + diagonal
    else:
        factor = torch.lerp(old.log(), new.log(), step).exp()
    return Parameters(log_weights, torch.lerp(before.means, after.means, step), {"factor": factor})


def fitted(kind: type[EM], x: Tensor, covariance_type: str, max_iter: int = MAX_ITER, **options: Any) -> EM:
    """EM on x until `PATIENCE` iterations in a row gain less than `TOL`; none that moves a component is among them."""
    given = GaussianMixture(K, x.shape[1], covariance_type).start_em(EMOptions(max_iter=max_iter, tol=0.0, **options))
    em = kind(given.family, K, x.shape[1], given.options, given.dtype)
    best, n_small, n_moved = -float("inf"), 0, 0.0
    while not em.done and n_small < PATIENCE:
        n_iter = em.n_iter
        em.advance(em.collect([(x, None)]))
        if em.n_iter > n_iter:
            objective, n_reseeded = float(em.history[-1]), float(em.n_reseeded.sum())
            n_small = n_small + 1 if 0 <= objective - best < TOL and n_reseeded == n_moved else 0
            best, n_moved = max(best, objective), n_reseeded
    return em


def objective_of(em: EM) -> float:
    """The largest in the fit, in nats a point and standardised coordinates."""
    return max(map(float, em.history))


def passes_to(em: EM, target: float) -> int | None:
    """Iterations until the objective is `target`; None if it never is."""
    return next((i + 1 for i, value in enumerate(em.history) if float(value) >= target), None)


def on_a_part(x: Tensor, covariance_type: str, seed: int) -> tuple[EM, float]:
    """EM on all points from that of a quarter, and the passes that the quarter took."""
    part = x[sample_rows(x, len(x) // 4, seed)]
    first = fitted(EM, part, covariance_type, PART_ITER, seed=seed)
    parameters, location = first.result()
    covariances = first.family.covariances(parameters.factors, x.shape[1])
    start = {
        "weights_init": parameters.log_weights.exp(),
        "means_init": parameters.means + location,
        "precisions_init": covariances.inverse() if covariance_type == "full" else covariances.reciprocal(),
    }
    return fitted(EM, x, covariance_type, seed=seed, **start), first.n_iter / 4


def measure(name: str, x: Tensor, covariance_type: str) -> dict[str, Any]:
    """Of every start the passes and objectives of each way."""
    starts = []
    for seed in range(STARTS):
        plain = fitted(EM, x, covariance_type, seed=seed)
        relaxed = fitted(OverRelaxed, x, covariance_type, seed=seed)
        warm, before = on_a_part(x, covariance_type, seed)
        target = objective_of(plain)
        starts.append(
            {
                "plain": [plain.n_iter, target],
                "relaxed": [relaxed.n_iter, objective_of(relaxed), passes_to(relaxed, target)],
                "part": [before + warm.n_iter, objective_of(warm)],
            }
        )
    print(name, tuple(x.shape), covariance_type, starts, flush=True)
    return {"name": name, "n": len(x), "d": x.shape[1], "type": covariance_type, "starts": starts}


def markdown(result: dict[str, Any]) -> str:
    """The table, and what it is of."""
    head = [
        "features",
        "type",
        "passes",
        "over-relaxed",
        "reach EM's objective",
        "its objective less EM's",
        "on a part first",
        "its objective less EM's",
    ]
    lines = []
    for row in result["rows"]:
        starts = row["starts"]

        def median(way: str, starts: list[dict[str, Any]] = starts) -> float:
            return statistics.median(start[way][0] for start in starts)

        def gain(way: str, starts: list[dict[str, Any]] = starts) -> float:
            return statistics.median(start[way][1] - start["plain"][1] for start in starts)

        reach = sum(start["relaxed"][2] is not None for start in starts)
        lines.append(
            [
                f"{row['name']}, {row['n']:,} x {row['d']}",
                row["type"],
                f"{median('plain'):g}",
                f"{median('relaxed'):g}",
                f"{reach} of {len(starts)}",
                f"{gain('relaxed'):+.3f}",
                f"{median('part'):g}",
                f"{gain('part'):+.3f}",
            ]
        )
    versions = versions_text(result["facts"]["versions"])
    return (
        table(head, lines)
        + f"\n\nMedians of {STARTS} starts, K = {K}, until {PATIENCE} iterations in a row gain less than {TOL:g} nats "
        + "a point and move no component; "
        + f"objectives in nats a point. {versions}."
    )


def main() -> None:
    """Measure, write the JSON, fill the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", nargs="*", type=Path)
    parser.add_argument("--page", action="store_true", help="only fill the page")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.page:
        result = json.loads(RESULT.read_text())
    else:
        rows = []
        for path in arguments.features:
            x = torch.from_numpy(np.load(path)).float().flatten(1)
            x = x[sample_rows(x, N)]
            rows += [measure(path.stem, x, kind) for kind in ("full", "diag")]
        result = {"facts": facts(torch.device("cpu")), "rows": rows}
        save(RESULT, result)
    text = markdown(result)
    print(text)
    fill(ROOT / "docs" / "speed.md", "em_relaxation", text)


if __name__ == "__main__":
    main()
