"""Seconds of k-means, ours beside scikit-learn's and FAISS's: an iteration from the same centres, and a whole start.

    pip install -e '.[benchmarks]'
    OMP_NUM_THREADS=1 python benchmarks/kmeans_speed.py          # a minute
    OMP_NUM_THREADS=1 python benchmarks/kmeans_speed.py --page   # only writes the table again

An iteration's time is (time of 22 iterations - time of 2) / 20 from the same centres, without a tolerance. A whole
start is what a mixture's `init_params="kmeans"` does on all points: k-means++ (FAISS: random points), then at most 25
iterations to a tolerance of one's own; the inertia that it reaches stands beside it. Times are of the processor and of
one thread, which other work on the machine hardly touches; medians over repeats in which all take turns; repeats that
disagree (`timings.py`) are an error. Writes `benchmarks/results/kmeans_speed.json` and the table of docs/speed.md.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pages import RESULTS, ROOT, fill, save, table, versions_text
from problems import clock, clock_text, facts
from timings import NOTHING, REPEATS, median_seconds
from torch import Tensor

from gmm_torch.mixture.init.base import squared_distances
from gmm_torch.mixture.init.kmeans import MAX_ITER, KMeans, lloyd_step

RESULT = RESULTS / "kmeans_speed.json"
SIZES = ((50_000, 64, 50),)  # N, D, K
SHORT, LONG = 2, 22

Iterations = Callable[[Tensor, Tensor, int], float]  # seconds of so many iterations from centres (K, D)
Start = Callable[[Tensor, int, int], tuple[float, Tensor]]  # seconds, and centres, of K and a seed
KINDS = ("iteration_seconds", "start_seconds")


def our_iterations(x: Tensor, centres: Tensor, n_iter: int) -> float:
    """gmm_torch."""
    weight, centres = x.new_ones(len(x)), centres[None]
    begin = clock()
    for _ in range(n_iter):
        centres, _ = lloyd_step(x, weight, centres)
    return clock() - begin


def our_start(x: Tensor, k: int, seed: int) -> tuple[float, Tensor]:
    """gmm_torch."""
    begin = clock()
    centres = KMeans().means(x, x.new_ones(len(x)), k, 1, torch.Generator().manual_seed(seed))
    return clock() - begin, centres[0]


def scikit_learn_iterations(x: Tensor, centres: Tensor, n_iter: int) -> float:
    """scikit-learn."""
    from sklearn.cluster import KMeans as Reference

    points, init = x.numpy(), centres.numpy()
    model = Reference(len(init), init=init, n_init=1, max_iter=n_iter, tol=0.0, algorithm="lloyd")
    begin = clock()
    model.fit(points)
    seconds = clock() - begin
    assert model.n_iter_ == n_iter, "it ends early where no point changes its centre"
    return seconds


def scikit_learn_start(x: Tensor, k: int, seed: int) -> tuple[float, Tensor]:
    """scikit-learn."""
    from sklearn.cluster import KMeans as Reference

    points, model = x.numpy(), Reference(k, n_init=1, max_iter=MAX_ITER, random_state=seed, algorithm="lloyd")
    begin = clock()
    model.fit(points)
    return clock() - begin, torch.from_numpy(model.cluster_centers_)


def _faiss(x: np.ndarray[Any, Any], k: int, n_iter: int, seed: int = 0) -> Any:
    import faiss

    return faiss.Kmeans(x.shape[1], k, niter=n_iter, seed=seed, max_points_per_centroid=len(x))


def faiss_iterations(x: Tensor, centres: Tensor, n_iter: int) -> float:
    """FAISS."""
    points = x.numpy()
    model = _faiss(points, len(centres), n_iter)
    begin = clock()
    model.train(points, init_centroids=centres.numpy())
    return clock() - begin


def faiss_start(x: Tensor, k: int, seed: int) -> tuple[float, Tensor]:
    """FAISS."""
    points = x.numpy()
    model = _faiss(points, k, MAX_ITER, seed)
    begin = clock()
    model.train(points)
    return clock() - begin, torch.from_numpy(model.centroids)


WHO: dict[str, tuple[Iterations, Start]] = {
    "gmm_torch": (our_iterations, our_start),
    "scikit-learn": (scikit_learn_iterations, scikit_learn_start),
    "FAISS": (faiss_iterations, faiss_start),
}


def inertia(x: Tensor, centres: Tensor) -> float:
    """Mean squared distance of x (n, D) to the nearest of the centres (K, D), in float64."""
    parts = (squared_distances(part.double(), centres.double()).amin(0).sum() for part in x.split(10_000))
    return float(sum(parts)) / len(x)


def measure(n: int, d: int, k: int, repeats: int) -> dict[str, Any]:
    """Everyone's times of an iteration and of a start, and the inertia after each start."""
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0))  # without clusters nobody is done early
    centres = x[:k].clone()
    row: dict[str, Any] = {name: {"iteration_seconds": [], "start_seconds": [], "inertia": []} for name in WHO}
    for repeat in range(-1, repeats):  # the first round is for warming up
        for name, (iterations, start) in WHO.items():
            short, long = (iterations(x, centres, n) for n in (SHORT, LONG))
            seconds, found = start(x, k, repeat + 1)
            if repeat >= 0:
                row[name]["iteration_seconds"].append((long - short) / (LONG - SHORT))
                row[name]["start_seconds"].append(seconds)
                row[name]["inertia"].append(inertia(x, found))
            print(f"{n}, round {repeat + 1}: {name} {long:.2f} s, {seconds:.2f} s", flush=True)
    return {"n": n, "d": d, "k": k, "peers": row}


def markdown(result: dict[str, Any]) -> str:
    """The table, and what it was measured on.

    Raises:
        NoisyTimingError: repeats that may not be stated.
    """
    if not result["rows"]:
        return NOTHING
    head = ["N x D, K", "", "an iteration, s", "times ours", "a start, s", "times ours", "mean squared distance"]
    lines = []
    for row in result["rows"]:
        times = {
            name: tuple(median_seconds(f"{row['n']}, {name}, {what}", each[what]) for what in KINDS)
            for name, each in row["peers"].items()
        }
        ours = times["gmm_torch"]
        for name, each in row["peers"].items():
            pairs = zip(times[name], ours, strict=True)
            cells = [cell for mine, base in pairs for cell in (f"{mine:.3f}", f"{mine / base:.1f}")]
            size = f"{row['n'] // 1000}k x {row['d']}, {row['k']}" if name == "gmm_torch" else ""
            lines.append([size, name, *cells, f"{np.median(each['inertia']):.2f}"])
    about = result["facts"]
    versions = versions_text(about["versions"])
    counts = ", ".join(str(len(row["peers"]["gmm_torch"]["start_seconds"])) for row in result["rows"])
    return (
        table(head, lines)
        + f"\n\nfloat32, points of a normal distribution; medians of {counts} repeats, starts of seeds from 0. "
        + f"{about['device']}, {clock_text(about['threads'])}; {versions}."
    )


def main() -> None:
    """Measure, write the JSON, fill the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--page", action="store_true", help="only fill the page")
    arguments = parser.parse_args()
    if arguments.page:
        result = json.loads(RESULT.read_text())
    else:
        rows = [measure(*size, arguments.repeats) for size in SIZES]
        result = {"facts": facts(torch.device("cpu"), "scikit-learn", "faiss-cpu"), "rows": rows}
    text = markdown(result)  # before anything is written: it refuses repeats that disagree
    save(RESULT, result)
    print(text)
    fill(ROOT / "docs" / "speed.md", "kmeans_speed", text)


if __name__ == "__main__":
    main()
