"""Fitting a mixture to points in shards on disk, by several processes under torchrun: time and memory of a pass.

    python benchmarks/fit_sharded.py --folder /somewhere/with/7/GB

Every process reads shards of its own, again at each pass. Times are between the beginnings of passes, by the clock and
of the processor; memory is the largest that a process holds beside the pages of its files, which are the operating
system's. Also fits a tenth of a shard in one process and in several, to compare the mixtures. The shards are removed.
Writes `benchmarks/results/fit_sharded.json` and the table of docs/scale.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from em_memory import Peak
from pages import RESULTS, ROOT, fill, save, table
from problems import facts

from gmm_torch import GaussianMixture
from gmm_torch.distributed import gather_objects

N, D, K, SHARDS, PROCESSES, ITERATIONS = 100_000_000, 8, 10, 8, 2, 3
ROWS = 2**17  # of a batch
FAMILIES = ("diag", "full")
KINDS = {"npy": 1.0, "parquet": 0.1}
"""How the shards are stored, and the share of N that is fitted so."""


class Shards:
    """Batches of the points in some files, again at each pass; remembers when each pass began."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.begun: list[tuple[float, float]] = []

    def __iter__(self) -> Iterator[torch.Tensor]:
        self.begun.append((time.perf_counter(), time.process_time()))
        for file in self.files:
            if file.suffix == ".npy":
                points = np.load(file, mmap_mode="r")
                for start in range(0, len(points), ROWS):
                    yield torch.from_numpy(np.array(points[start : start + ROWS]))
            else:
                for batch in pq.ParquetFile(file).iter_batches(ROWS, columns=["features"]):
                    values = batch.column(0).flatten().to_numpy()
                    yield torch.from_numpy(values.reshape(len(batch), -1).copy())


def make(folder: Path, kind: str, n: int) -> None:
    """K overlapping clusters with covariances of their own, in shards."""
    rng = np.random.default_rng(0)
    centres = 2 * rng.standard_normal((K, D), dtype=np.float32)
    mixing = np.eye(D, dtype=np.float32) + 0.3 * rng.standard_normal((K, D, D), dtype=np.float32) / D**0.5
    for shard in range(SHARDS):
        rows = n // SHARDS
        points = np.empty((rows, D), np.float32)
        for start in range(0, rows, 10**6):
            part = points[start : start + 10**6]
            bounds = np.sort(rng.integers(0, len(part) + 1, K - 1))
            for k, (low, high) in enumerate(zip([0, *bounds], [*bounds, len(part)], strict=True)):
                part[low:high] = centres[k] + rng.standard_normal((high - low, D), dtype=np.float32) @ mixing[k]
        if kind == "npy":
            np.save(folder / f"{shard:03}.npy", points)
        else:
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(points.reshape(-1)), D)
            pq.write_table(pa.table({"features": vectors}), folder / f"{shard:03}.parquet", compression="none")


def fitted(family: str, source: Any) -> GaussianMixture:
    """A fit of a fixed number of passes, from which it takes no warning that there were few."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GaussianMixture(K, D, family).fit(source, max_iter=ITERATIONS, tol=0.0, seed=0)


def small(folder: Path) -> np.ndarray:
    """A tenth of the first shard."""
    points = np.load(folder / "000.npy", mmap_mode="r")
    return points[: len(points) // 10]


def child(folder: Path, out: Path) -> None:
    """The fits of one of the processes, to shards of its own; the first one writes what all found."""
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    files = sorted(file for file in folder.iterdir() if file.suffix[1:] in KINDS)
    found = {}
    for family in FAMILIES:
        same = fitted(family, small(folder)[rank::world]).means.tolist() if files[0].suffix == ".npy" else None
        shards = Shards(files[rank::world])
        load = os.getloadavg()[0]
        with Peak() as peak:
            mixture = fitted(family, shards)
        shards.begun.append((time.perf_counter(), time.process_time()))
        passes = np.diff(np.array(shards.begun), axis=0).tolist()
        mine = {
            "passes_seconds": passes,
            "peak": peak.largest,
            "before": peak.before,
            "threads": torch.get_num_threads(),
        }
        found[family] = {"processes": gather_objects(mine), "small": same, "bound": mixture.lower_bound, "load": load}
    if rank == 0:
        out.write_text(json.dumps(found))
    dist.destroy_process_group()


def measure(folder: Path, n: int) -> dict[str, Any]:
    """All fits."""
    rows, apart = [], 0.0
    for kind, part in KINDS.items():
        with tempfile.TemporaryDirectory(dir=folder) as place:
            shards, out = Path(place), Path(place) / "out.json"
            make(shards, kind, int(n * part))
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]
            command += [__file__, "--child", str(shards), str(out)]
            subprocess.run(command, check=True, env={"OMP_NUM_THREADS": "1", **os.environ})
            for family, found in json.loads(out.read_text()).items():
                same = found.pop("small")
                if same is not None:
                    alone = fitted(family, small(shards)).means
                    apart = max(apart, float((alone - torch.tensor(same)).abs().max()))
                rows.append({"kind": kind, "family": family, "n": int(n * part), **found})
                print(json.dumps(rows[-1]), flush=True)
    about = facts(torch.device("cpu"), "pyarrow")
    settings = {"d": D, "k": K, "shards": SHARDS, "n_processes": PROCESSES, "iterations": ITERATIONS}
    return {"facts": about, "cores": os.cpu_count(), **settings, "rows": rows, "largest_difference_of_means": apart}


def markdown(result: dict[str, Any]) -> str:
    """The table, and what it was measured on."""
    lines = []
    for row in result["rows"]:
        # The first two passes are the data's summary and the assignment to the initial means.
        passes = np.array([process["passes_seconds"] for process in row["processes"]])[:, 2:]
        wall, cpu = np.median(passes[..., 0].max(0)), np.median(passes[..., 1].sum(0))
        beyond = max(process["peak"] - process["before"] for process in row["processes"])
        peak = max(process["peak"] for process in row["processes"])
        megabytes = f"{row['n'] * result['d'] * 4 / 1e6:,.0f}"
        kind = {"npy": "memory maps", "parquet": "Parquet"}[row["kind"]]
        cells = (f"{wall:.1f}", f"{cpu:.1f}", f"{beyond / 1e6:.0f}", f"{peak / 1e6:.0f}")
        lines.append([f"{row['family']}, {kind}", f"{row['n']:,}", megabytes, *cells])
    head = ["", "points", "data, MB", "pass, s", "pass, CPU s", "beyond the data, MB", "a process, MB"]
    about = result["facts"]
    loads = [row["load"] for row in result["rows"]]
    return (
        table(head, lines)
        + f"\n\nD = {result['d']}, K = {result['k']}; {result['n_processes']} processes of gloo, one thread each, read "
        f"{result['shards']} shards; the median of {result['iterations']} iterations, CPU seconds of all processes "
        "together; memory: the largest process. On a tenth of a shard, one process and two end with means at most "
        f"{result['largest_difference_of_means']:.1g} apart. A shared machine of {result['cores']} cores, on which "
        f"{min(loads):.0f} to {max(loads):.0f} processes were waiting to run: go by the CPU seconds. "
        f"{about['device']}, torch {about['versions']['torch']}, seed 0."
    )


def main() -> None:
    """Measure, write the JSON, fill the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--n", type=int, default=N)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
        return
    result = measure(arguments.folder, arguments.n)
    save(RESULTS / "fit_sharded.json", result)
    fill(ROOT / "docs" / "scale.md", "fit_sharded", markdown(result))


if __name__ == "__main__":
    main()
