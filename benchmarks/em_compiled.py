"""Whether `torch.compile` makes the E-step of a CPU faster: the same statistics, as it is and compiled.

    OMP_NUM_THREADS=1 python benchmarks/em_compiled.py

An E-step of some points under one set of parameters: as it is (in blocks, in memory that is taken once), and with
`EStep.chunk` compiled (inductor, `fullgraph=True`) for chunks of one size, of which the fastest of `CHUNKS` counts. The
two take turns; a ratio is that of one repeat, and the median counts (`timings.py`), of processor time of one thread,
which other work on the machine hardly touches. The time to compile is not in it. A graph that breaks, or one that is
compiled again from chunk to chunk, raises.

Writes `benchmarks/results/em_compiled.json` and the line of docs/speed.md.
"""

import statistics
from collections.abc import Callable
from typing import Any

import torch
from pages import RESULTS, ROOT, fill, save
from problems import Problem, facts, seconds_of
from timings import REPEATS, NoisyTimingError, median_seconds
from torch import Tensor
from torch._dynamo.utils import counters

from gmm_torch.mixture.covariance import get_family
from gmm_torch.mixture.data_summary import Standardisation
from gmm_torch.mixture.e_step import EStep
from gmm_torch.mixture.parameters import Parameters

PROBLEMS = [Problem(49_152, 64, 50, name) for name in ("full", "tied", "diag", "spherical")]
CHUNKS = (1_024, 4_096, 16_384)


def step_of(problem: Problem, x: Tensor) -> EStep:
    """Of covariances like the data's variances about some of the points x (N, D), in float32, on their device."""
    family = get_family(problem.covariance_type)
    factors = {name: value.double()[None].to(x.device) for name, value in family.unit(problem.k, problem.d).items()}
    log_weights = torch.full((1, problem.k), 1 / problem.k, dtype=torch.float64, device=x.device).log()
    one = torch.ones(problem.d, dtype=torch.float64, device=x.device)
    standardisation = Standardisation(x.double().mean(0), x.double().std(0), one)
    means = standardisation.apply(x[: problem.k], torch.float64)[None]
    return EStep(family, Parameters(log_weights, means, factors), 1e-6 * one, standardisation, torch.float32)


def compiled(step: EStep, x: Tensor, size: int) -> Callable[[], Any]:
    """The E-step in compiled chunks."""
    torch.compiler.reset()
    counters.clear()
    chunk = torch.compile(EStep.chunk, fullgraph=True, dynamic=False)

    def run() -> Any:
        total = step.zero()
        for part in x.split(size):
            total = total + chunk(step, part, None)
        return total

    total, expected = run(), step(x)
    torch.testing.assert_close(total.log_likelihood, expected.log_likelihood, rtol=1e-5, atol=0)
    for name, value in expected.moments.items():
        found, value = (each.tril() if name == "second" else each for each in (total.moments[name], value))
        torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-4 * float(value.abs().max()))
    if counters["stats"]["unique_graphs"] != 1:
        raise RuntimeError(f"expected one graph for all chunks; got {counters['stats']['unique_graphs']}")
    return run


def measure(problem: Problem, size: int) -> dict[str, Any]:
    """Ratios of one problem, above 1 where compiled is faster."""
    x = problem.points()
    step = step_of(problem, x)
    run = compiled(step, x, size)
    pairs = [(seconds_of(lambda: step(x)), seconds_of(run)) for _ in range(REPEATS + 1)][1:]
    return {
        "problem": problem.name,
        "chunk": size,
        "all_seconds": {"as it is": [a for a, _ in pairs], "compiled": [b for _, b in pairs]},
        "all_ratios": [a / b for a, b in pairs],
    }


def markdown(found: dict[str, Any]) -> str:
    """The line of what `main` has measured."""
    parts = []
    for name in dict.fromkeys(row["problem"] for row in found["rows"]):
        rows = [row for row in found["rows"] if row["problem"] == name]
        best = max(rows, key=lambda row: statistics.median(row["all_ratios"]))
        try:
            ratio = f"{median_seconds(name, best['all_ratios']):.2f}"
        except NoisyTimingError:
            ratio = "not stated, its repeats disagree"
        parts.append(f"{name.rpartition(', ')[2]} {ratio} (chunks of {best['chunk']:,})")
    about, problem = found["facts"], found["rows"][0]["problem"].rpartition(",")[0]
    return (
        f"Time of an E-step as it is over that of compiled chunks (inductor) on a CPU, {problem}: {', '.join(parts)}. "
        f"Medians of {REPEATS} repeats of processor time, seed 0. {about['device']}, {about['threads']} thread, "
        f"torch {about['versions']['torch']}."
    )


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    rows = [measure(problem, size) for problem in PROBLEMS for size in CHUNKS]
    found = {"facts": facts(torch.device("cpu")), "rows": rows}
    text = markdown(found)
    print(text)
    save(RESULTS / "em_compiled.json", found)
    fill(ROOT / "docs" / "speed.md", "em_compiled", text)


if __name__ == "__main__":
    main()
