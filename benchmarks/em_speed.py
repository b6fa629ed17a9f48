"""Seconds per EM iteration, ours and every peer's, on the same points from the same initial values.

    pip install gmm_torch[benchmarks]
    python benchmarks/em_speed.py            # all rows, half an hour; --rows 0 1 2 3 for the quick ones

An iteration's time is (time of 8 iterations - time of 2) / 6, the median over repeats in which all take turns. Writes
`benchmarks/results/em_speed.json` and the tables of docs/speed.md and the README.

With `--flush-subnormals` the processor takes numbers below 1e-38 for zero. Nobody gets that without asking, but it
tells how much of a difference comes from such numbers alone; it goes to `em_speed_flushed.json` and docs/speed.md.
"""

import argparse
import json
import statistics
from typing import Any

import em_peers
import torch
from pages import RESULTS, ROOT, fill, save, table
from problems import Problem, facts, gemm_rate

# problem, repeats, and the goal: the fastest peer's time over ours; a round of the last takes ten minutes
ROWS = [
    (Problem(50_000, 64, 50, "full"), 5, 3.0),
    (Problem(50_000, 64, 50, "diag"), 5, 2.0),
    (Problem(50_000, 64, 50, "tied"), 5, 3.0),
    (Problem(50_000, 64, 50, "spherical"), 5, 2.0),
    (Problem(200_000, 256, 20, "full"), 1, 2.5),
]
SHORT, LONG = 2, 8
REFERENCE = "scikit-learn float64"


def measure(problem: Problem, repeats: int, names: list[str], device: torch.device) -> dict[str, Any]:
    """Times and log-likelihoods of everyone on one problem."""
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
                short, long = (runners[name](problem, x, start, n) for n in (SHORT, LONG if repeat >= 0 else SHORT))
            except Exception as error:  # a peer that breaks is a result, not the end of the comparison
                if name == "gmm_torch":
                    raise
                failed[name] = f"{type(error).__name__}: {error}"[:200]
                del runners[name], seconds[name]
                continue
            if repeat >= 0:
                seconds[name].append((long.seconds - short.seconds) / (LONG - SHORT))
                final[name] = long.log_likelihood
            print(f"{problem.name}, round {repeat + 1} of {repeats}: {name} {long.seconds:.2f} s", flush=True)
    rate = statistics.median(rates)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "problem": problem.name,
        "seconds": median,
        "all_seconds": seconds,
        "initialisation": statistics.median(em_peers.initialisation(problem, x) for _ in range(repeats)),
        "log_likelihood": final,
        "gemm_gflops": rate / 1e9,
        "gemm_fraction": problem.flop / median["gmm_torch"] / rate,
        "failed": failed,
        "repeats": repeats,
    }


def markdown(result: dict[str, Any]) -> str:
    """The table, and what it was measured on."""
    names = ["gmm_torch", *em_peers.PEERS]
    head = [
        "N x D, K, type",
        *names,
        "fastest peer / ours",
        "goal",
        "share of GEMM rate",
        "initialisation / iteration",
        "log-likelihood off by",
    ]
    lines = []
    for row in result["rows"]:
        mine = row["seconds"]["gmm_torch"]
        others = {name: value for name, value in row["seconds"].items() if name != "gmm_torch"}
        reference = row["log_likelihood"].get(REFERENCE)
        off = abs(row["log_likelihood"]["gmm_torch"] / reference - 1) if reference else None
        cells = [f"{row['seconds'][name]:.3f}" if name in row["seconds"] else "–" for name in names]
        lines.append(
            [
                row["problem"],
                *cells,
                f"{min(others.values()) / mine:.2f}" if others else "–",
                f"{row['goal']:g}",
                f"{100 * row['gemm_fraction']:.0f} %",
                f"{row['initialisation'] / mine:.1f}",
                "–" if off is None else f"{off:.0e}",
            ]
        )
    about = result["facts"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    rates = ", ".join(f"{row['gemm_gflops']:.0f}" for row in result["rows"])
    counts = ", ".join(str(row["repeats"]) for row in result["rows"])
    return (
        table(head, lines)
        + f"\n\nSeconds per iteration, float32 unless stated; medians of {counts} repeats. {about['device']}, "
        + f"{about['threads']} threads; its matrix products ran at {rates} GFLOP/s (float32, row by row). "
        + "The initialisation is k-means++ and k-means, with the passes before it. The last column is the relative "
        + "difference of the final mean log-likelihood from scikit-learn's in "
        + f"float64. {versions}."
    )


def main() -> None:
    """Measure, write the JSON, fill the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=list(range(len(ROWS))))
    parser.add_argument("--peers", nargs="*", default=list(em_peers.PEERS), choices=list(em_peers.PEERS))
    parser.add_argument("--repeats", type=int, help="instead of each row's own number")
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
        problem, repeats, goal = ROWS[index]
        rows.append(measure(problem, arguments.repeats or repeats, arguments.peers, device) | {"goal": goal})
    about = facts(device, "scikit-learn", "torchgmm", "tgmm", "pomegranate")
    name = "em_speed_flushed" if arguments.flush_subnormals else "em_speed"
    path = RESULTS / f"{name}.json"
    if path.exists():  # rows that were left out this time stay, if they are of the same machine and versions
        before = json.loads(path.read_text())
        measured = {row["problem"] for row in rows}
        if before["facts"] == about:
            rows += [row for row in before["rows"] if row["problem"] not in measured]
    order = [problem.name for problem, _, _ in ROWS]
    result = {"facts": about, "rows": sorted(rows, key=lambda row: order.index(row["problem"]))}
    text = markdown(result)
    print(text)
    if arguments.write:
        save(path, result)
        fill(ROOT / "docs" / "speed.md", name, text)
        if not arguments.flush_subnormals:
            fill(ROOT / "README.md", name, text)


if __name__ == "__main__":
    main()
