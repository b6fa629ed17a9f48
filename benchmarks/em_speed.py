"""Seconds per EM iteration, ours and every peer's, on the same points from the same initial values.

    pip install -e '.[benchmarks]'
    python benchmarks/em_speed.py            # all rows, some 40 minutes
    python benchmarks/em_speed.py --rows 0   # the first alone, a quarter of an hour; the others stay
    python benchmarks/em_speed.py --rows     # none: only writes the tables again

An iteration's time is (time of a long fit - time of a short one) / (iterations between them), the median over repeats
in which all take turns. A row whose repeats disagree (`timings.py`) is not kept: it is named, and the exit status is 1.
Writes `benchmarks/results/em_speed.json` and the table of docs/speed.md.

With `--flush-subnormals` the processor takes numbers below 1e-38 for zero. Nobody gets that without asking, but it
tells how much of a difference comes from such numbers alone; it goes to `em_speed_flushed.json`, docs/speed.md and, as
the less flattering of the two, to the README.
"""

import argparse
import json
import math
import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

import em_peers
import torch
from pages import RESULTS, ROOT, fill, save, table, versions_text
from problems import Problem, clock_text, facts, gemm_rate
from timings import NOTHING, REPEATS, NoisyTimingError, median_seconds


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        problem: what everybody fits.
        long: iterations of the long fit: as many as it takes to be well above what a fit costs beside them.
        peers: who takes part; everybody who has the covariance type, if None.
    """

    problem: Problem
    long: int
    peers: tuple[str, ...] | None = None


FASTER = ("scikit-learn float32", "scikit-learn array API")  # an iteration of the others takes a minute
ROWS = [
    Row(Problem(50_000, 64, 50, "full"), 8),
    Row(Problem(50_000, 64, 50, "diag"), 20),
    Row(Problem(50_000, 64, 50, "tied"), 20),
    Row(Problem(50_000, 64, 50, "spherical"), 32),
    Row(Problem(200_000, 256, 20, "full"), 4, FASTER),
]
SHORT = 2
REFERENCE = "scikit-learn float64"


def measure(problem: Problem, long: int, repeats: int, names: list[str], device: torch.device) -> dict[str, Any]:
    """Times of an iteration and log-likelihoods after `long` of them, everyone's, on one problem."""
    x = problem.points().to(device)
    start = {name: value.to(device) for name, value in problem.start(x.cpu()).items()}
    runners: dict[str, em_peers.Peer] = {"gmm_torch": em_peers.ours}
    for name in names:
        peer, types = em_peers.PEERS[name]
        if problem.covariance_type in types:
            runners[name] = peer
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    rates, final, failed = [], {}, {}
    for repeat in range(-1, repeats):  # the first round is for warming up
        rates.append(gemm_rate(device))
        for name in list(runners):
            try:
                runs = [runners[name](problem, x, start, n) for n in (SHORT, long if repeat >= 0 else SHORT)]
            except Exception as error:  # a peer that breaks is a result, not the end of the comparison
                if name == "gmm_torch":
                    raise
                failed[name] = f"{type(error).__name__}: {error}"[:200]
                del runners[name], seconds[name]
                continue
            if repeat >= 0:
                seconds[name].append((runs[1].seconds - runs[0].seconds) / (long - SHORT))
                final[name] = runs[1].log_likelihood
            print(f"{problem.name}, round {repeat + 1} of {repeats}: {name} {runs[1].seconds:.2f} s", flush=True)
    rate = statistics.median(rates)
    return {
        "problem": problem.name,
        "all_seconds": seconds,
        "initialisation": statistics.median(em_peers.initialisation(problem, x) for _ in range(repeats)),
        "log_likelihood": final,
        "gemm_gflops": rate / 1e9,
        "gemm_fraction": problem.flop / statistics.median(seconds["gmm_torch"]) / rate,
        "failed": failed,
    }


def medians(row: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of an iteration by name; no peer's whose repeats disagree and are all above the fastest peer's median.

    Raises:
        NoisyTimingError: repeats of ours, or of who may be the fastest peer, may not be stated.
    """
    seconds = dict(row["all_seconds"])
    found = {"gmm_torch": median_seconds(f"{row['problem']}, gmm_torch", seconds.pop("gmm_torch"))}
    refused = {}
    for name, values in seconds.items():
        try:
            found[name] = median_seconds(f"{row['problem']}, {name}", values)
        except NoisyTimingError as error:
            refused[name] = error
    fastest = min((value for name, value in found.items() if name != "gmm_torch"), default=math.inf)
    for name, error in refused.items():
        if len(seconds[name]) < REPEATS or min(seconds[name]) <= fastest:
            raise error
    return found


def stated(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that may be stated; says of the others why not."""
    found = []
    for row in rows:
        try:
            medians(row)
        except NoisyTimingError as error:
            print(f"left out: {error}")
        else:
            found.append(row)
    return found


def markdown(result: dict[str, Any], brief: bool = False) -> str:
    """The table, and what it was measured on.

    Args:
        result: as it is saved.
        brief: without what is known of our own time.

    Raises:
        NoisyTimingError: see `medians`.
    """
    if not result["rows"]:
        return NOTHING
    measured = {name for row in result["rows"] for name in row["all_seconds"]}
    names = [name for name in ("gmm_torch", *em_peers.PEERS) if name in measured]
    head = ["N x D, K, type", *names, "fastest peer / ours"]
    if not brief:
        head += ["share of GEMM rate", "initialisation / iteration", "log-likelihood off by"]
    lines = []
    for row in result["rows"]:
        seconds = medians(row)
        mine = seconds["gmm_torch"]
        others = {name: value for name, value in seconds.items() if name != "gmm_torch"}
        reference = row["log_likelihood"].get(REFERENCE)
        off = abs(row["log_likelihood"]["gmm_torch"] / reference - 1) if reference else None
        cells = [f"{seconds[name]:.3f}" if name in seconds else "–" for name in names]
        line = [row["problem"], *cells, f"{min(others.values()) / mine:.2f}" if others else "–"]
        if not brief:
            line += [f"{100 * row['gemm_fraction']:.0f} %", f"{row['initialisation'] / mine:.1f}"]
            line += ["–" if off is None else f"{off:.0e}"]
        lines.append(line)
    about = result["facts"]
    versions = versions_text(about["versions"])
    rates = ", ".join(f"{row['gemm_gflops']:.0f}" for row in result["rows"])
    counts = ", ".join(str(len(row["all_seconds"]["gmm_torch"])) for row in result["rows"])
    own = (
        f" Its matrix products ran at {rates} GFLOP/s (float32, row by row). The initialisation is k-means++ and "
        "k-means, with the passes before it. The last column is the relative difference of the final mean "
        "log-likelihood from scikit-learn's in float64."
    )
    return (
        table(head, lines)
        + f"\n\nSeconds per iteration, float32 unless stated; medians of {counts} repeats. {about['device']}, "
        + f"{clock_text(about['threads'])}.{'' if brief else own} A peer without a number was not measured, or its "
        + f"repeats disagree and each is slower than the fastest peer. {versions}."
    )


def main() -> int:
    """Measure, write the JSON, fill the tables; 1 where a row had to be left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=list(range(len(ROWS))))
    parser.add_argument("--peers", nargs="*", default=list(em_peers.PEERS), choices=list(em_peers.PEERS))
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--flush-subnormals", action="store_true")
    parser.add_argument("--write", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    em_peers.quiet()
    # Before the first product: threads take it over from the one that starts them.
    if arguments.flush_subnormals and not torch.set_flush_denormal(True):
        raise SystemExit("--flush-subnormals: expected a processor that can; this one can't")
    device = torch.device("cpu")
    rows = []
    for index in arguments.rows:
        row = ROWS[index]
        names = [name for name in arguments.peers if row.peers is None or name in row.peers]
        rows.append(measure(row.problem, row.long, arguments.repeats, names, device))
    sound = stated(rows)
    about = facts(device, "scikit-learn", "torchgmm", "tgmm", "pomegranate")
    name = "em_speed_flushed" if arguments.flush_subnormals else "em_speed"
    path = RESULTS / f"{name}.json"
    kept = []
    if path.exists():  # rows that were left out this time stay, if they are of the same machine and versions
        before = json.loads(path.read_text())
        if not rows:
            about = before["facts"]
        if before["facts"] == about:
            measured = {row["problem"] for row in rows}
            kept = [row for row in before["rows"] if row["problem"] not in measured]
    order = [row.problem.name for row in ROWS]
    result = {"facts": about, "rows": sorted(kept + sound, key=lambda row: order.index(row["problem"]))}
    text = markdown(result)
    print(text)
    if arguments.write:
        save(path, result)
        fill(ROOT / "docs" / "speed.md", name, text)
        if arguments.flush_subnormals:  # the README has the less flattering of the two
            fill(ROOT / "README.md", name, markdown(result, brief=True))
    return int(len(sound) < len(rows))


if __name__ == "__main__":
    raise SystemExit(main())
