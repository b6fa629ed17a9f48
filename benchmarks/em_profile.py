"""What an EM iteration spends its time on, by kind of operation: what matrix products could be hidden behind, at best.

    OMP_NUM_THREADS=1 python benchmarks/em_profile.py          # two minutes
    OMP_NUM_THREADS=1 python benchmarks/em_profile.py --page   # only writes the table again

After a few iterations of each of `em_speed.py`'s problems of 50,000 points, torch's profiler watches `WATCHED` more, on
one thread. A share is an operation's own time over that of all; medians over repeats, and repeats that disagree
(`timings.py`) are an error. Writes `benchmarks/results/em_profile.json` and the table of docs/speed.md.
"""

import argparse
import json
import warnings
from typing import Any

import torch
from em_speed import ROWS
from pages import RESULTS, ROOT, fill, save, table, versions_text
from problems import Problem, facts
from timings import REPEATS, median_seconds
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from gmm_torch import GaussianMixture
from gmm_torch.mixture.em import EM
from gmm_torch.mixture.options import EMOptions

RESULT = RESULTS / "em_profile.json"
BEFORE, WATCHED = 4, 4
KINDS = {
    "products": ("mm", "addmm", "addmm_", "bmm", "baddbmm"),
    "squares": ("addcmul", "addcmul_", "pow", "pow_", "square", "linalg_vector_norm"),
    "normalising": ("amax", "sub_", "clamp_min_", "exp_", "sum", "log_", "reciprocal", "mul_", "add"),
    "standardising": ("copy_", "sub", "mul"),
    "choosing": ("gt", "nonzero", "index_select", "remainder"),
}


def shares(em: EM, x: Tensor) -> dict[str, float]:
    """Of each kind of operation, in `WATCHED` iterations; "the rest" is every other."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(WATCHED):
            em.advance(em.collect([(x, None)]))
    times = {event.key.removeprefix("aten::"): event.self_cpu_time_total for event in found.key_averages()}
    total = sum(times.values())
    result = {kind: sum(times.get(name, 0) for name in names) / total for kind, names in KINDS.items()}
    return result | {"the rest": 1 - sum(result.values())}


def measure(problem: Problem) -> dict[str, Any]:
    """Shares of every repeat."""
    x = problem.points()
    mixture = GaussianMixture(problem.k, problem.d, problem.covariance_type)
    repeats = []
    for _ in range(REPEATS):
        options = EMOptions(max_iter=BEFORE + WATCHED, tol=0.0, reg_mode="absolute", **problem.start(x))
        em = mixture.start_em(options).run([(x, None)], until="iterate")
        for _ in range(BEFORE):
            em.advance(em.collect([(x, None)]))
        repeats.append(shares(em, x))
        print(problem.name, {name: f"{value:.0%}" for name, value in repeats[-1].items()}, flush=True)
    return {"problem": problem.name, "shares": {name: [each[name] for each in repeats] for name in repeats[0]}}


def markdown(result: dict[str, Any]) -> str:
    """The table, and what it was measured on.

    Raises:
        NoisyTimingError: repeats of the products that may not be stated.
    """
    kinds = [*KINDS, "the rest"]
    lines = []
    for row in result["rows"]:
        median_seconds(f"{row['problem']}, products", row["shares"]["products"])
        medians = (sorted(row["shares"][kind])[len(row["shares"][kind]) // 2] for kind in kinds)
        lines.append([row["problem"], *(f"{100 * value:.0f} %" for value in medians)])
    about = result["facts"]
    return (
        table(["N x D, K, type", *kinds], lines)
        + f"\n\nShares of an iteration's time; medians of {REPEATS} repeats. {about['device']}, "
        + f"{about['threads']} thread; {versions_text(about['versions'])}."
    )


def main() -> None:
    """Measure, write the JSON, fill the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="only fill the page")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.page:
        result = json.loads(RESULT.read_text())
    else:
        torch.set_num_threads(1)
        rows = [measure(row.problem) for row in ROWS if row.peers is None]
        result = {"facts": facts(torch.device("cpu")), "rows": rows}
    text = markdown(result)
    save(RESULT, result)
    print(text)
    fill(ROOT / "docs" / "speed.md", "em_profile", text)


if __name__ == "__main__":
    main()
