"""Seconds per EM iteration on a CUDA device, the share of its GEMM rate, and peers on the same card.

    python benchmarks/em_gpu.py

An iteration's time is (time of 8 iterations - time of 2) / 6, median of five after a warm-up, with the device's own
clock stopped by synchronising before and after each fit. Writes `benchmarks/results/em_gpu.json`.
"""

import argparse
from typing import Any

import em_peers
import torch
from em_speed import ROWS, markdown, measure, stated
from pages import RESULTS, save
from problems import Problem, facts
from timings import REPEATS

LONG = 8
LARGE = Problem(1_000_000, 512, 100, "full")
PEERS = ["scikit-learn array API", "torchgmm"]


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("expected a CUDA device; torch finds none")
    em_peers.quiet()
    device = torch.device("cuda")
    rows: list[dict[str, Any]] = []
    for problem in [*(row.problem for row in ROWS), LARGE]:
        # the peers keep N x K x D numbers, which the large problem leaves no room for
        peers = PEERS if problem is not LARGE else []
        rows.append(measure(problem, LONG, arguments.repeats, peers, device))
    result = {"facts": facts(device, "scikit-learn", "torchgmm"), "rows": stated(rows)}
    print(markdown(result))
    save(RESULTS / "em_gpu.json", result)


if __name__ == "__main__":
    main()
