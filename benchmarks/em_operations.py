"""How many operations a chunk of an E-step and M-step starts on an accelerator, whatever D and K.

    python benchmarks/em_operations.py

Counted by dispatch on tensors of the device "meta", for a million points; views and unwritten memory do not count. What
is counted is the same on every machine: there is nothing to repeat, and no time in it. Writes
`benchmarks/results/em_operations.json` and the table of docs/speed.md.

`--before FILE` adds a column from the JSON of an earlier version.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from operations import iteration, scoring
from pages import RESULTS, ROOT, fill, save, table
from problems import Problem

N = 1_000_000
TYPES = ("full", "tied", "diag", "spherical", "low_rank")
SIZES = [(d, k) for d in (64, 128, 512) for k in (50, 100, 1024)]


def counted(covariance_type: str, d: int, k: int) -> dict[str, Any]:
    """One line of the table."""
    problem = Problem(N, d, k, covariance_type)
    parts = iteration(problem)
    a_chunk, after = parts.chunk.started.total(), parts.update.started.total()
    return {
        "type": covariance_type,
        "features": d,
        "components": k,
        "chunk_points": parts.chunk_points,
        "chunks": parts.n_chunks,
        "operations_a_chunk": a_chunk,
        "operations_after": after,
        "operations_an_iteration": parts.n_chunks * a_chunk + after,
        "operations_log_prob_chunk": scoring(problem).started.total(),
        "chunk": dict(parts.chunk.started.most_common()),
    }


def markdown(found: dict[str, Any]) -> str:
    """The table of what `main` has counted."""
    rows = found["rows"]
    old = {(row["type"], row["features"], row["components"]): row for row in found["before"]}
    head = ["type, D, K", "points a chunk", "operations a chunk", "between chunks and the next", "an iteration"]
    head += ["an iteration before"] if old else []
    lines = []
    for row in rows:
        key = row["type"], row["features"], row["components"]
        line = [f"{key[0]}, {key[1]}, {key[2]}", f"{row['chunk_points']:,}", str(row["operations_a_chunk"])]
        line += [str(row["operations_after"]), f"{row['operations_an_iteration']:,}"]
        lines.append(line + ([f"{old[key]['operations_an_iteration']:,}"] if old else []))
    return table(head, lines) + (
        f"\n\n{found['points']:,} points, float32, an accelerator's chunks; torch {found['torch']}. Counted by "
        "dispatch, not measured: views are left out, and what a library starts within one operation is not seen."
    )


def main() -> None:
    """Count and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="JSON of an earlier version; None for the one that is kept")
    path = RESULTS / "em_operations.json"
    arguments = parser.parse_args()
    if arguments.before is not None:
        before = json.loads(arguments.before.read_text())["rows"]
    else:
        before = json.loads(path.read_text())["before"] if path.exists() else []
    rows = [counted(covariance_type, d, k) for covariance_type in TYPES for d, k in SIZES]
    found = {"points": N, "torch": torch.__version__, "rows": rows, "before": before}
    text = markdown(found)
    print(text)
    save(path, found)
    fill(ROOT / "docs" / "speed.md", "em_operations", text)


if __name__ == "__main__":
    main()
