"""Scoring very many small images: `task=score engine=ray` by number of actors, beside the local engine.

    python benchmarks/score_ray.py --work work

Trains the demo's classifier and fits its detector in `--work`, packs digits with a little noise of their own as PNG
bytes into Parquet there, and scores them in a process of its own for each engine. Rates are of images by the clock of
the whole command, and of what follows the first verdict; CPU seconds are those of all its processes; memory is the
largest anonymous one of a process (Linux, /proc). Says whether all wrote the same rows.
Writes `benchmarks/results/score_ray.json` and the table of docs/scale.md.
"""

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from configuration import composed
from pages import RESULTS, ROOT, fill, save, table, versions_text
from PIL import Image
from problems import facts
from sklearn.datasets import load_digits

from trainers.run.job import run_task

N, A_FILE, A_GROUP = 1_000_000, 100_000, 2_000
ENGINES = {"local": (), "ray, 1 actor": ("engine=ray",), "ray, 2 actors": ("engine=ray", "engine.actors=2")}
KINDS = {"MapWorker": "actor", "MapBatches": "decoding", "main": "driver"}
"""What the title of a process of ours has in it, and what the process is."""


def pack(folder: Path, n: int) -> None:
    """PNG files of 8 x 8 pixels as bytes."""
    folder.mkdir(exist_ok=True)
    digits = (load_digits().images * 15.9).astype(np.uint8)
    rng = np.random.default_rng(0)
    for start in range(0, n, A_FILE):
        path = folder / f"{start // A_FILE:03}.parquet"
        images = []
        for i in range(start, min(n, start + A_FILE)):
            file = io.BytesIO()
            noise = rng.integers(0, 4, (8, 8), dtype=np.uint8)
            Image.fromarray(np.minimum(digits[i % len(digits)], 251) + noise).save(file, "PNG")
            images.append(file.getvalue())
        pq.write_table(pa.table({"image": images}), path, row_group_size=A_GROUP)


def below(pid: int) -> Iterator[int]:
    """A process and those that it has started."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from below(int(child))


def look(pid: int, peaks: dict[str, int], seconds: dict[int, float]) -> None:
    """Note memory and CPU time of a process and of all that it has started."""
    for each in below(pid):
        try:
            title = Path(f"/proc/{each}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            status = Path(f"/proc/{each}/status").read_text()
            times = Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:  # ended meanwhile
            continue
        seconds[each] = (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
        kind = "driver" if each == pid else next((name for word, name in KINDS.items() if word in title), "Ray itself")
        anonymous = next((int(line.split()[1]) * 1024 for line in status.splitlines() if "RssAnon" in line), 0)
        peaks[kind] = max(peaks.get(kind, 0), anonymous)


def score(engine: str, command: list[str], out: Path) -> dict[str, Any]:
    """One run of the application, watched."""
    out.unlink(missing_ok=True)
    peaks: dict[str, int] = {}
    seconds: dict[int, float] = {}
    load, begun, first = os.getloadavg()[0], time.perf_counter(), None
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    with subprocess.Popen([*command, *ENGINES[engine]], env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            look(process.pid, peaks, seconds)
            if first is None and any(
                part.stat().st_size > 1000 for part in out.parent.glob(f"{out.stem}-*.partial.csv")
            ):
                first = time.perf_counter() - begun
            time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"{engine}: the run ended with {process.returncode}")
    wall = time.perf_counter() - begun
    digest = hashlib.sha256(out.read_bytes()).hexdigest()[:12]
    found = {"wall_seconds": wall, "first_seconds": first, "cpu_seconds": sum(seconds.values()), "peaks": peaks}
    return {"engine": engine, **found, "load": load, "rows": digest}


def markdown(result: dict[str, Any]) -> str:
    """The table, and what it was measured on."""
    n, lines = result["n"], []
    for row in result["rows"]:
        after = n / (row["wall_seconds"] - row["first_seconds"]) if row["first_seconds"] else float("nan")
        peaks = [
            f"{row['peaks'][kind] / 1e6:.0f}" if kind in row["peaks"] else ""
            for kind in ("driver", "actor", "decoding")
        ]
        rates = (f"{n / row['wall_seconds']:,.0f}", f"{after:,.0f}", f"{1e6 * row['cpu_seconds'] / n:,.0f}")
        lines.append([row["engine"], *rates, *peaks])
    head = [
        "engine",
        "images/s",
        "after the first verdict",
        "CPU \u00b5s an image",
        "driver, MB",
        "actor, MB",
        "decoding, MB",
    ]
    about, loads = result["facts"], [row["load"] for row in result["rows"]]
    same = "the same bytes" if len({row["rows"] for row in result["rows"]}) == 1 else "rows that differ"
    versions = versions_text(about["versions"])
    return (
        table(head, lines)
        + f"\n\n{n:,} PNG images of 8 x 8 pixels as bytes in Parquet, batches of {result['batch_size']}, one thread a "
        f"process; all engines wrote {same}. A shared machine of {result['cores']} cores, on which {min(loads):.0f} to "
        f"{max(loads):.0f} processes were waiting to run: go by the CPU time. {about['device']}, {versions}, seed 0."
    )


def main() -> None:
    """Measure, write the JSON, fill the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--n", type=int, default=N)
    parser.add_argument("--batch", type=int, default=256)
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    quiet = ("trainer=cpu", "trainer.enable_progress_bar=false")
    if not (work / "detector.safetensors").exists():
        run_task(composed("experiment=demo", "attack=[]", "ood=[]", *quiet), work)
    pack(work / "images", arguments.n)
    out = work / "verdicts.csv"
    command = [sys.executable, "-W", "ignore", "-m", "trainers.main", "experiment=demo", "task=score", *quiet]
    command += [f"classifier.checkpoint={work}/classifier.safetensors", f"checkpoint={work}/detector.safetensors"]
    command += [
        f"input={work}/images",
        f"output={out}",
        f"data.batch_size={arguments.batch}",
        f"hydra.run.dir={work}/run",
    ]
    rows = []
    for engine in ENGINES:
        rows.append(score(engine, command, out))
        print(json.dumps(rows[-1]), flush=True)
    about = facts(torch.device("cpu"), "ray", "pyarrow")
    result = {"facts": about, "cores": os.cpu_count(), "n": arguments.n, "batch_size": arguments.batch, "rows": rows}
    save(RESULTS / "score_ray.json", result)
    fill(ROOT / "docs" / "scale.md", "score_ray", markdown(result))


if __name__ == "__main__":
    main()
