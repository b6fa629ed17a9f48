"""What no weights can reach: the columns of `detection.py` against each other, over weights and exponents.

    python benchmarks/frontier.py --document docs/limits.md [the other arguments as for detection.py, which runs first]

Every point of a grid combines the p-values of the three parts as -log sum_j w_j p_j^(-r), the weight of `agreement`
being 1, with moments averaged over image and mirror or modelled jointly. In each column it is compared with the best
peer there, in one pass or over the same views (`benchmarks/results/detection.json`). The grid is looked at with the
table's own failures to learn what could be had at best; nothing is chosen by it.
"""

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detection import ATTACKS, ERRORS, Ours, Split, parse, workbench
from pages import RESULTS, fill, save, table
from views_study import LOGITS, MOMENTS, MOMENTS_OF, log_p_values

from gmm_torch.detection.scores.consensus import WEIGHTS

RESULT = RESULTS / "frontier.json"
EXPONENTS = (0.25, 0.5, 1.0, 2.0)
WEIGHT_GRID = tuple(2.0**-i for i in range(6))
ALLOWED = 1.0  # points of AUROC below the best peer
LOWEST = 85.0  # AUROC in % of every column
PEERS = ("peer", "peer over views")


def points(ours: Ours) -> dict[tuple[str, float, float, float], dict[str, float]]:
    """(way, exponent, weight of moments, of logits) -> AUROC by column."""
    found = {}
    for way in MOMENTS_OF:
        log_p = log_p_values(ours, way)
        for r, moments, logits in itertools.product(EXPONENTS, WEIGHT_GRID, WEIGHT_GRID):
            weights = {**WEIGHTS, MOMENTS: moments, LOGITS: logits}
            found[way, r, moments, logits] = ours.combined(
                log_p, list(WEIGHTS), lambda value, logs, r=r: -torch.logsumexp(logs - r * value, -1), weights
            )
    return found


def best_peers(detection: Mapping[str, Any]) -> dict[str, float]:
    """Column -> the highest AUROC of any peer, in one pass or over views."""
    peers = [row["auroc"] for row in detection["rows"] if row["group"] in PEERS]
    return {column: max(row[column]["mean"] for row in peers) for column in detection["columns"]}


def document(rows: list[dict[str, Any]], peers: Mapping[str, float]) -> str:
    """What each wish costs, in Markdown."""
    columns = list(peers)
    grid = {tuple(row["point"]): {c: row["auroc"][c] - peers[c] for c in columns} for row in rows}
    area = {tuple(row["point"]): row["auroc"] for row in rows}
    default = ("averaged", 0.5, WEIGHTS[MOMENTS], WEIGHTS[LOGITS])

    def worst(point: tuple[Any, ...]) -> float:
        return min(grid[point].values())

    wishes: dict[str, Callable[[tuple[Any, ...]], bool]] = {
        "least behind in its worst column": lambda point: True,
        f"errors at most {ALLOWED:g} behind": lambda point: grid[point][ERRORS] >= -ALLOWED,
        f"no set more than {ALLOWED:g} behind": lambda point: all(
            grid[point][c] >= -ALLOWED for c in columns if c != ERRORS and c not in ATTACKS
        ),
        f"errors at most {ALLOWED:g} behind, no column below {LOWEST:g}": lambda point: (
            grid[point][ERRORS] >= -ALLOWED and min(area[point].values()) >= LOWEST
        ),
    }
    chosen = {"the default": default}
    chosen |= {
        wish: max(those, key=worst) for wish, holds in wishes.items() if (those := [p for p in grid if holds(p)])
    }
    wished: dict[tuple[Any, ...], list[str]] = {}
    for wish, point in chosen.items():
        wished.setdefault(point, []).append(wish)
    found = list(wished)
    lines = [
        ["moments", *(way for way, *_ in found)],
        ["exponent", *(f"{r:g}" for _, r, *_ in found)],
        ["weights", *(", ".join(f"1/{1 / w:g}" if w < 1 else "1" for w in weights) for _, _, *weights in found)],
        *([c, *(f"{area[point][c]:.1f} ({grid[point][c]:+.1f})" for point in found)] for c in columns),
        ["mean", *(f"{np.mean(list(area[point].values())):.1f}" for point in found)],
        ["min", *(f"{min(area[point].values()):.1f}" for point in found)],
    ]
    head = ["", *("; ".join(names) for names in wished.values())]
    good = [p for p in grid if worst(p) >= -ALLOWED]
    missed = [wish for wish in wishes if wish not in chosen]
    text = f"Of {len(grid)} points {len(good)} are within {ALLOWED:g} of the best peer in every column"
    text += f", {sum(min(area[p].values()) >= LOWEST for p in good)} of them with no column below {LOWEST:g}."
    if missed:
        text += " No point has " + "; ".join(missed) + "."
    return f"{table(head, lines)}\n\nAUROC in % (difference to the best peer); weights of moments and logits. {text}"


def main() -> None:
    """Measure the grid; see the first lines of the module."""
    options = parse()
    bench = workbench(options)
    study, _ = bench.study({name: ATTACKS[name] for name in options.attacks})
    by_point: dict[tuple[str, float, float, float], list[dict[str, float]]] = {}
    for seed in options.seeds:
        split = Split.draw(seed, len(study.test_labels), options.n_calibration, options.n_test)
        for point, found in points(Ours(study, split, bench.cache)).items():
            by_point.setdefault(point, []).append(found)
    rows = [
        {"point": list(point), "auroc": {c: round(float(np.mean([each[c] for each in found])), 2) for c in found[0]}}
        for point, found in by_point.items()
    ]
    peers = best_peers(json.loads(Path(options.result).read_text()))
    save(RESULT, {"seeds": options.seeds, "best peers": peers, "rows": rows}, indent=None)
    text = document(rows, peers)
    print(text)
    if options.document:
        fill(Path(options.document), "frontier", text)


if __name__ == "__main__":
    main()
