"""Cost of an EM iteration against points, features, components and processes, with fitted exponents.

    python benchmarks/em_scaling.py

Each curve changes one size and keeps the others; an exponent is the slope of the logarithms over the upper half of the
curve, where fixed costs no longer matter. Repeats that disagree (`timings.py`) are an error. Writes
`benchmarks/results/em_scaling.json`, `docs/em_scaling.svg` and the table of docs/speed.md. The processes share the
points of one problem, one thread each, as many as there are cores.
"""

import json
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pages import RESULTS, ROOT, fill, save, table
from problems import Problem, facts
from timings import REPEATS, median_seconds

from gmm_torch import GaussianMixture

BASE = {"n": 40_000, "d": 32, "k": 16}
LARGE = BASE | {"n": 160_000}  # what processes share
CURVES = {
    "n": (5000, 10_000, 20_000, 40_000, 80_000, 160_000),
    "d": (8, 16, 32, 64, 128),
    "k": (2, 4, 8, 16, 32, 64),
    "p": tuple(2**i for i in range(max(2, (os.cpu_count() or 1).bit_length()))),
}
NAMES = {"n": "points", "d": "features", "k": "components", "p": "processes"}
TYPES = ("full", "diag", "tied", "spherical")
SHORT, LONG = 2, 18


def seconds(problem: Problem, rank: int = 0, world_size: int = 1) -> list[float]:
    """Of one iteration, of this process's points: (time of 18 - time of 2) / 16, of every repeat."""
    x = problem.points()
    start = problem.start(x)
    x = x[rank::world_size].contiguous()

    def fit(n_iter: int) -> float:
        mixture = GaussianMixture(problem.k, problem.d, problem.covariance_type)
        begin = time.perf_counter()  # on the wall: processes wait for each other
        mixture.fit(x, max_iter=n_iter, tol=0.0, **start)
        return time.perf_counter() - begin

    fit(SHORT)
    return [(fit(LONG) - fit(SHORT)) / (LONG - SHORT) for _ in range(REPEATS)]


def work(rank: int, world_size: int, problem: Problem, folder: Path) -> None:
    """One of the processes; the first writes down its time."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=world_size)
    taken = seconds(problem, rank, world_size)
    if rank == 0:
        (folder / "seconds").write_text(json.dumps(taken))
    dist.destroy_process_group()


def seconds_of_processes(problem: Problem, world_size: int) -> list[float]:
    """`seconds`, of `world_size` processes that share the points."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (world_size, problem, Path(folder)), nprocs=world_size)
        found: list[float] = json.loads((Path(folder) / "seconds").read_text())
        return found


def exponent(sizes: tuple[int, ...], times: list[float]) -> float:
    """Slope of log time over log size, upper half, two points at least."""
    half = min(len(sizes) // 2, len(sizes) - 2)
    return float(np.polyfit(np.log(sizes[half:]), np.log(times[half:]), 1)[0])


def main() -> None:
    """Measure, draw, write."""
    warnings.simplefilter("ignore")
    rows: list[dict[str, Any]] = []
    for kind in TYPES:
        for axis, sizes in CURVES.items():
            if axis == "p":
                problem = Problem(**LARGE, covariance_type=kind)
                repeats = [seconds_of_processes(problem, size) for size in sizes]
            else:
                repeats = [seconds(Problem(**{**BASE, axis: size}, covariance_type=kind)) for size in sizes]
            times = [
                median_seconds(f"{kind}, {size:,} {NAMES[axis]}", each)
                for size, each in zip(sizes, repeats, strict=True)
            ]
            rows.append(
                {"type": kind, "axis": axis, "sizes": sizes, "seconds": times, "exponent": exponent(sizes, times)}
            )
            print(kind, axis, [f"{t:.4f}" for t in times], f"exponent {rows[-1]['exponent']:.2f}", flush=True)
    result = {"facts": facts(torch.device("cpu")), "base": BASE, "rows": rows}
    save(RESULTS / "em_scaling.json", result)
    draw(result)
    fill(ROOT / "docs" / "speed.md", "em_scaling", markdown(result))


def markdown(result: dict[str, Any]) -> str:
    """The table of exponents, what it was measured on, and the picture."""
    lines = [
        [
            kind,
            *(
                f"{row['exponent']:.2f}"
                for axis in CURVES
                for row in result["rows"]
                if (row["type"], row["axis"]) == (kind, axis)
            ),
        ]
        for kind in TYPES
    ]
    about = result["facts"]
    base = ", ".join(f"{value:,} {NAMES[axis]}" for axis, value in BASE.items())
    note = (
        f"Exponents of the time of an iteration about {base} (processes: {LARGE['n']:,} points). "
        f"{about['device']}, torch {about['versions']['torch']}."
    )
    return table(["type", *NAMES.values()], lines) + f"\n\n{note}\n\n![time of an iteration](em_scaling.svg)"


def draw(result: dict[str, Any]) -> None:
    """The curves, one panel an axis."""
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "gmm_torch"  # the same numbers give the same file
    figure, panels = plt.subplots(1, len(CURVES), figsize=(13, 3.2), sharey=True, layout="constrained")
    for panel, axis in zip(panels, CURVES, strict=True):
        for row in result["rows"]:
            if row["axis"] == axis:
                panel.loglog(row["sizes"], row["seconds"], marker="o", label=f"{row['type']}: {row['exponent']:.2f}")
        sizes = CURVES[axis]
        panel.set_xticks(sizes, [f"{size // 1000}k" if size >= 1000 else str(size) for size in sizes])
        panel.set_xticks([], minor=True)
        panel.set_xlabel(NAMES[axis])
        panel.legend(title="exponent", fontsize=8, title_fontsize=8)
    panels[0].set_ylabel("seconds per iteration")
    figure.savefig(ROOT / "docs" / "em_scaling.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
