"""Peak memory of fitting, scoring and predicting, beyond the data, and their time, against the number of points.

    OMP_NUM_THREADS=1 python benchmarks/em_memory.py   # ten minutes

Each measurement runs in a process of its own. The points are in a NumPy memory map of float32 whose pages are the
operating system's; the peak is that of the process's anonymous memory (a thread reads it fifty times a second), less
what it held before the call. The time is of the same call (`problems.clock`), so it includes what reading the map takes
the processor. Also fits 10^7 points of 64 features from the memory map and reports the whole process.
Writes `benchmarks/results/em_memory.json` and the table of docs/speed.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pages import RESULTS, ROOT, fill, save, table
from problems import clock, clock_text, facts

from gmm_torch import GaussianMixture

D, K = 64, 20
SIZES = (100_000, 1_000_000)
LARGE = 10_000_000
TASKS = ("fit full", "fit diag", "log_prob", "predict")


def anonymous_bytes() -> int:
    """Anonymous resident memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("expected Linux: /proc/self/status has no RssAnon")


class Peak:
    """The largest anonymous memory while a block runs."""

    def __enter__(self) -> "Peak":
        self.before = self.largest = anonymous_bytes()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.largest = max(self.largest, anonymous_bytes())

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        self.largest = max(self.largest, anonymous_bytes())


def make(path: Path, n: int) -> None:
    """K clusters, written a part at a time."""
    rng = np.random.default_rng(0)
    centres = 2 * rng.normal(size=(K, D)).astype(np.float32)
    points = np.memmap(path, np.float32, "w+", shape=(n, D))
    for start in range(0, n, 100_000):
        end = min(n, start + 100_000)
        noise = rng.standard_normal((end - start, D), dtype=np.float32)
        points[start:end] = centres[rng.integers(K, size=end - start)] + noise
    points.flush()


def child(task: str, path: Path, n: int) -> None:
    """One measurement; prints it as JSON."""
    points = np.memmap(path, np.float32, "r", shape=(n, D))
    kind = "diag" if task.endswith("diag") else "full"
    mixture = GaussianMixture(K, D, kind)
    if not task.startswith("fit"):
        mixture.fit(points[:20_000], max_iter=3)
        whole = torch.from_numpy(np.array(points))
    mixture_again = GaussianMixture(K, D, kind).fit(points[:2000], max_iter=1)  # libraries allocate once
    del mixture_again
    with Peak() as peak:
        begin = clock()
        if task.startswith("fit"):
            mixture.fit(points, max_iter=3)
        elif task == "log_prob":
            mixture.log_prob(whole)
        else:
            mixture.predict(whole)
        seconds = clock() - begin
    print(json.dumps({"beyond": peak.largest - peak.before, "process": peak.largest, "seconds": seconds}))


def measure(task: str, path: Path, n: int) -> dict[str, Any]:
    """`child` in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--child", task, str(path), str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    result: dict[str, Any] = json.loads(done.stdout)
    print(
        f"{task}, {n:,} points: {result['beyond'] / 1e6:.0f} MB beyond the data, {result['seconds']:.1f} s", flush=True
    )
    return result


def main() -> None:
    """Measure, write the JSON, fill the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--large", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    if arguments.child:
        task, path, n = arguments.child
        child(task, Path(path), int(n))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n in SIZES:
            path = Path(folder) / f"{n}.f32"
            make(path, n)
            rows += [{"task": task, "n": n, **measure(task, path, n)} for task in TASKS]
            path.unlink()
        if arguments.large:
            path = Path(folder) / "large.f32"
            make(path, LARGE)
            rows.append({"task": "fit diag", "n": LARGE, **measure("fit diag", path, LARGE)})
    result = {"facts": facts(torch.device("cpu")), "d": D, "k": K, "rows": rows}
    save(RESULTS / "em_memory.json", result)
    text = markdown(result)
    print(text)
    fill(ROOT / "docs" / "speed.md", "em_memory", text)


def markdown(result: dict[str, Any]) -> str:
    """The table, and what it was measured on."""
    lines = [
        [
            row["task"],
            f"{row['n']:,}",
            f"{row['n'] * D * 4 / 1e6:,.0f}",
            f"{row['beyond'] / 1e6:,.0f}",
            f"{row['process'] / 1e6:,.0f}",
            f"{row['seconds']:.1f}",
            f"{row['seconds'] / row['n'] * 1e6:.1f}",
        ]
        for row in result["rows"]
    ]
    head = ["", "points", "data, MB", "peak beyond the data, MB", "whole process, MB", "s", "µs a point"]
    about = result["facts"]
    note = (
        f"D = {D}, K = {K}, three iterations; a fit reads a memory map, scoring and predicting read a tensor. "
        f"{about['device']}, {clock_text(about['threads'])}, torch {about['versions']['torch']}."
    )
    return f"{table(head, lines)}\n\n{note}"


if __name__ == "__main__":
    main()
