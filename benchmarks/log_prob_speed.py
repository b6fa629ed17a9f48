"""Time of `log_prob` and `predict` over that of EM's E-step, on the same points.

    OMP_NUM_THREADS=1 python benchmarks/log_prob_speed.py          # a minute
    OMP_NUM_THREADS=1 python benchmarks/log_prob_speed.py --page   # only writes the table again

An E-step may sum about the origin, since it knows the data; `log_prob` centres every point on every mean, which is
exact wherever the point lies and however narrow the component. All take turns; a ratio is that of one repeat, and the
median counts (`timings.py`), of processor time of one thread, which other work on the machine hardly touches. Writes
`benchmarks/results/log_prob_speed.json` and the table of docs/speed.md.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from em_compiled import step_of
from pages import RESULTS, ROOT, fill, save, table
from problems import Problem, facts
from timings import REPEATS, median_seconds

from gmm_torch import GaussianMixture

RESULT = RESULTS / "log_prob_speed.json"
PROBLEMS = [Problem(50_000, 64, 50, name) for name in ("full", "tied", "diag", "spherical")]
WHAT = ("log_prob", "predict")


def seconds(function: Callable[[], object]) -> float:
    """Of the processor."""
    begin = time.process_time()
    function()
    return time.process_time() - begin


def measure(problem: Problem, repeats: int) -> dict[str, Any]:
    """Seconds of every repeat, after one for warming up."""
    x = problem.points()
    mixture = GaussianMixture(problem.k, problem.d, problem.covariance_type)
    mixture.fit(x[:20_000], max_iter=2)
    step = step_of(problem, x)
    calls = {"E-step": lambda: step(x), "log_prob": lambda: mixture.log_prob(x), "predict": lambda: mixture.predict(x)}
    found: dict[str, list[float]] = {name: [] for name in calls}
    with torch.no_grad():
        for repeat in range(-1, repeats):
            for name, call in calls.items():
                taken = seconds(call)
                if repeat >= 0:
                    found[name].append(taken)
    print(problem.name, {name: f"{min(values):.3f}" for name, values in found.items()}, flush=True)
    return {"problem": problem.name, "all_seconds": found}


def markdown(result: dict[str, Any]) -> str:
    """The table, and what it was measured on.

    Raises:
        NoisyTimingError: ratios that may not be stated.
    """
    lines = []
    for row in result["rows"]:
        ratios = [
            median_seconds(
                f"{row['problem']}, {name}",
                [a / b for a, b in zip(row["all_seconds"][name], row["all_seconds"]["E-step"], strict=True)],
            )
            for name in WHAT
        ]
        lines.append([row["problem"], *(f"{ratio:.1f}" for ratio in ratios)])
    about, n = result["facts"], len(result["rows"][0]["all_seconds"]["E-step"])
    return (
        table(["N x D, K, type", *(f"`{name}` / E-step" for name in WHAT)], lines)
        + f"\n\nMedians of {n} ratios of processor time, float32, seed 0. {about['device']}, "
        + f"{about['threads']} thread, torch {about['versions']['torch']}."
    )


def main() -> None:
    """Measure, write the JSON, fill the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2 * REPEATS + 1)
    parser.add_argument("--page", action="store_true", help="only fill the page")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.page:
        result = json.loads(RESULT.read_text())
    else:
        rows = [measure(problem, arguments.repeats) for problem in PROBLEMS]
        result = {"facts": facts(torch.device("cpu")), "rows": rows}
    text = markdown(result)  # before anything is written: it refuses repeats that disagree
    save(RESULT, result)
    print(text)
    fill(ROOT / "docs" / "speed.md", "log_prob_speed", text)


if __name__ == "__main__":
    main()
