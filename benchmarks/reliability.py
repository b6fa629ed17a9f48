"""What goes wrong, on purpose: damaged files, kills, processes that die. The tests of `tests/faults` in full counts.

    python benchmarks/reliability.py [fuzz] [kills] [processes] [--cases 120000] [--kills 50] [--only training ...]

Writes `benchmarks/results/reliability.json` and the tables of docs/reliability.md. Each part keeps the other's numbers.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from pages import RESULTS, ROOT, fill, save, table
from problems import facts

sys.path.insert(0, str(ROOT))

from tests.faults.parsers import PARSERS, fuzz

RESULT = RESULTS / "reliability.json"
# Share of the cases: what takes milliseconds gets fewer.
SHARES = {
    "damaged_detector": 0.15, "hostile_detector": 0.04, "checkpoint": 0.25, "image": 0.36, "idx": 0.1,
    "run_folder": 0.1,
}  # fmt: skip
BOTH = -1
# Of two processes: which, and how it is ended.
ENDS = [
    (0, "that started the other", signal.SIGKILL),
    (1, "that was started", signal.SIGKILL),
    (0, "that started the other", signal.SIGTERM),
    (1, "that was started", signal.SIGTERM),
    (BOTH, "both", signal.SIGTERM),
]
PATIENCE = 300  # seconds, after which the others hang


def fuzzed(n_cases: int, seed: int) -> list[dict[str, Any]]:
    """Each parser on its share of the cases."""
    rows = []
    for make in PARSERS:
        n = round(n_cases * SHARES[make.__name__])
        with tempfile.TemporaryDirectory() as seeds, tempfile.TemporaryDirectory() as folder:
            parser = make(Path(seeds))
            tally = fuzz(parser, n, seed, Path(folder))
        rows.append(
            {"parser": parser.name, "cases": n, "refused": tally.refused, "read": tally.read, "faults": tally.faults}
        )
        print(parser.name, n, "faults:", len(tally.faults), *tally.faults[:3], flush=True)
    return rows


def killed(n_kills: int, seed: int, only: list[str]) -> list[dict[str, Any]]:
    """Each problem, or those with such a word in their names, killed so many times, in a process of one thread."""
    rows = []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.faults.kills", "--kills", str(n_kills), "--seed", str(seed)]
    command += ["--only", *only] if only else []
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    for line in process.stdout or ():
        rows.append(json.loads(line))
        print({name: value for name, value in rows[-1].items() if name != "moments"}, flush=True)
    if process.wait():
        raise SystemExit("the kills did not finish")
    return rows


def pids(group: int) -> list[int]:
    """Processes of a group that live."""
    found = subprocess.run(["pgrep", "-g", str(group)], stdout=subprocess.PIPE, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


def died(n_deaths: int, seed: int) -> list[dict[str, Any]]:
    """A fit in two processes, ended in the middle in each of the ways; how long it is until none is left."""
    rng = random.Random(seed)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "trainers.main", "data=digits", "trainer=cpu"]
        subprocess.run(
            [*command, "task=train", "trainer.max_epochs=2", f"hydra.run.dir={place}/trained"],
            cwd=place, env=environment, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        command += ["task=fit", f"classifier.checkpoint={place}/trained/classifier.safetensors"]
        command += ["trainer.devices=2", "+trainer.strategy=ddp", "mixture.em.max_iter=20000", "mixture.em.tol=0"]
        for i in range(n_deaths):
            log = Path(place) / f"{i}.log"
            with log.open("w") as out:
                process = subprocess.Popen(
                    [*command, f"hydra.run.dir={place}/{i}"],
                    cwd=place, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
                while log.read_text().count("features of the calibration split") < 2:  # EM comes next, in both
                    if process.poll() is not None:
                        raise SystemExit(log.read_text()[-2000:])
                    time.sleep(0.1)
                time.sleep(rng.uniform(2, 10))
                rank, _, by = ENDS[i % len(ENDS)]
                living = sorted(pids(process.pid))
                for pid in living if rank == BOTH else [living[rank]]:
                    os.kill(pid, by)
                began = time.perf_counter()
                code = process.wait(PATIENCE)
                while pids(process.pid):
                    if time.perf_counter() - began > PATIENCE:
                        raise SystemExit(f"{pids(process.pid)} outlived {by.name} to rank {rank} by {PATIENCE} s")
                    time.sleep(0.01)
            seconds = round(time.perf_counter() - began, 2)
            rows.append({"rank": rank, "by": by.name, "seconds": seconds, "exit_code": code})
            print(rows[-1], flush=True)
    return rows


def tables(result: dict[str, Any]) -> dict[str, str]:
    """The tables of docs/reliability.md that there are results for, by name."""
    found = {}
    if "fuzz" in result:
        rows = [
            (row["parser"], *(f"{row[name]:,}" for name in ("cases", "refused", "read")), str(len(row["faults"])))
            for row in result["fuzz"]
        ]
        total = (f"{sum(row[name] for row in result['fuzz']):,}" for name in ("cases", "refused", "read"))
        rows.append(("all", *total, str(sum(len(row["faults"]) for row in result["fuzz"]))))
        found["fuzz"] = table(("reader", "cases", "refused", "read", "faults"), rows)
    if "kills" in result:
        names = ("kills", "before_the_end", "same", "half_written")
        rows = [
            (row["problem"], *(str(row[name]) for name in names), f"{row['seconds']:.1f}") for row in result["kills"]
        ]
        head = ("killed", "kills", "hit before the end", "same result", "half-written files", "a run takes, s")
        found["kills"] = table(head, rows)
    if "processes" in result:
        rows = []
        for rank, name, by in ENDS:
            seconds = [row["seconds"] for row in result["processes"] if (row["rank"], row["by"]) == (rank, by.name)]
            rows.append((name, by.name, str(len(seconds)), f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}"))
        head = ("process", "gets", "times", "none is left after, median, s", "longest, s")
        found["processes"] = table(head, rows)
    return found


def main() -> None:
    """Run the parts named, or all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=["fuzz", "kills", "processes"])
    parser.add_argument("--cases", type=int, default=120_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--deaths", type=int, default=25, help="of a fit in two processes")
    parser.add_argument("--only", nargs="*", default=[], help="problems to kill again; the others keep their numbers")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    if "fuzz" in arguments.parts:
        result["fuzz"] = fuzzed(arguments.cases, arguments.seed)
    if "kills" in arguments.parts:
        rows = killed(arguments.kills, arguments.seed, arguments.only)
        kept = {row["problem"]: row for row in result.get("kills", [])} if arguments.only else {}
        result["kills"] = list((kept | {row["problem"]: row for row in rows}).values())
    if "processes" in arguments.parts:
        result["processes"] = died(arguments.deaths, arguments.seed)
    result["facts"] = facts(torch.device("cpu"), "lightning", "safetensors", "pillow") | {"seed": arguments.seed}
    save(RESULT, result)
    for name, text in tables(result).items():
        fill(ROOT / "docs" / "reliability.md", name, text)


if __name__ == "__main__":
    main()
