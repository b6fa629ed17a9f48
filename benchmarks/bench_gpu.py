"""Everything that needs a CUDA card, once: tests, EM beside its peers, what a detector and a followed training cost.

    make bench-gpu             # on a machine with a card, under twenty minutes
    make bench-gpu REHEARSE=1  # the same steps on the CPU at tiny sizes, to see that they run: three minutes, no file

A step that breaks is reported as that and the others go on. A time whose repeats disagree (`timings.py`) is not stated.
Writes `benchmarks/results/gpu.json` and `gpu.md`, ready to be committed. The exit status is 1 where a step broke.
"""

import argparse
import math
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import em_captured
import em_peers
import scoring_overhead
import torch
import training_overhead
from em_gpu import LARGE, LONG, PEERS
from em_speed import ROWS, measure
from operations import iteration
from pages import RESULTS, ROOT, save, table
from problems import Problem, facts
from timings import REPEATS, NoisyTimingError, median_seconds
from torch import nn

from trainers.classifiers.resnet_cifar import ResNetCifar

MINUTES = 20
# Published elsewhere, see `em_roofline.py`, and the shapes of the comparison on a CPU.
SHAPES = [
    *(row.problem for row in ROWS),
    LARGE,
    Problem(1_000_000, 64, 50, "full"),
    Problem(1_000_000, 128, 1024, "spherical"),
    Problem(65_536, 32, 64, "full"),
]
CHUNKS = [Problem(1_000_000, 64, 50, name) for name in ("full", "tied", "diag", "spherical")]
TINY = [Problem(2_000, 8, 3, name) for name in ("full", "tied", "diag", "spherical")]


def cuda_tests() -> dict[str, Any]:
    """Exit status and last line of `pytest -m cuda`."""
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60 * MINUTES, check=False)
    lines = done.stdout.strip().splitlines() or [""]
    if done.returncode:
        raise RuntimeError("\n".join(lines[-40:]))
    return {"summary": lines[-1]}


def em(device: torch.device, rehearse: bool) -> list[dict[str, Any]]:
    """An iteration of EM, ours and the peers', on every shape."""
    em_peers.quiet()
    rows = []
    for problem in TINY if rehearse else SHAPES:
        # the peers keep N x K x D numbers
        fits = problem.n * problem.k * problem.d < 2e9 and not rehearse
        row = measure(problem, LONG, REPEATS, PEERS if fits else [], device)
        parts = iteration(problem)
        rows.append(row | {"operations": parts.n_chunks * parts.chunk.started.total() + parts.update.started.total()})
    return rows


def chunks(device: torch.device, rehearse: bool) -> list[dict[str, Any]]:
    """The chunk of an E-step as it is, compiled, and as a CUDA graph."""
    return [em_captured.measure(problem, device) for problem in (TINY if rehearse else CHUNKS)]


def detector(device: torch.device, rehearse: bool) -> dict[str, Any]:
    """What a verdict costs beside the classifier."""
    torch.manual_seed(0)
    network = ResNetCifar(8 if rehearse else 20, 10).to(device).eval()
    goals = {n: scoring_overhead.GOAL * n for n in (1, 3)}
    x = scoring_overhead.smooth_images(32 if rehearse else scoring_overhead.BATCH, 3).to(device)
    with torch.inference_mode():
        detectors: dict[str, Any] = {"one pass": _small(network, views=1), "default": _small(network)}
        return scoring_overhead.measure(network, detectors, x, REPEATS, goals)


def _small(network: nn.Module, **options: Any) -> Any:
    fitting, calibration = (scoring_overhead.smooth_images(n, seed) for n, seed in ((512, 1), (128, 2)))
    detector = scoring_overhead.FailureDetector(network, n_components=3, **options)
    return detector.fit(fitting.split(128), fitter=scoring_overhead.fit_briefly).calibrate(calibration.split(128))


def training(device: torch.device, rehearse: bool) -> dict[str, Any]:
    """What following a training costs beside its steps."""
    return training_overhead.measure("resnet20", device, 1 if rehearse else 120, 1)


def step(name: str, work: Callable[[], Any], result: dict[str, Any]) -> bool:
    """Do it, keep what it found or why it broke; whether it is sound."""
    begin = time.perf_counter()
    try:
        result[name] = work()
    except NoisyTimingError as error:
        result[name] = {"not stated": str(error)}
    except Exception as error:  # one part that breaks must not take the others with it
        traceback.print_exc()
        result[name] = {"broken": f"{type(error).__name__}: {error}"[:2000]}
    print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)
    return "broken" not in result[name]


def markdown(result: dict[str, Any]) -> str:
    """What a page shows."""
    lines = []
    for row in result["EM"] if isinstance(result["EM"], list) else []:
        cells = []
        for name in ("gmm_torch", *PEERS):
            try:
                seconds = median_seconds(f"{row['problem']}, {name}", row["all_seconds"][name])
            except (KeyError, NoisyTimingError):
                seconds = math.nan
            cells.append("–" if math.isnan(seconds) else f"{1e3 * seconds:.2f}")
        lines.append([row["problem"], *cells, f"{row['gemm_gflops']:.0f}", str(row["operations"])])
    head = ["N x D, K, type", *(f"{name}, ms" for name in ("gmm_torch", *PEERS)), "GFLOP/s of a product", "operations"]
    parts = [table(head, lines)]
    for row in result["chunk"] if isinstance(result["chunk"], list) else []:
        parts.append(_chunk_in_words(row))
    for name, found in result["detector"].get("detectors", {}).items():
        parts.append(f"A verdict, {name}: {found['ratio']:.2f} times the classifier.")
    if "ratio" in result["training"]:
        parts.append(f"A followed training step: {result['training']['ratio']:.3f} times a plain one.")
    for name, found in result.items():
        if isinstance(found, dict) and (why := found.get("broken") or found.get("not stated")):
            parts.append(f"{name}: {why.splitlines()[-1]}")
    about = result["facts"]
    versions = ", ".join(f"{package} {number}" for package, number in about["versions"].items())
    parts.append(f"Tests: {result['tests'].get('summary', 'broken')}. {about['device']}, {versions}; seed 0.")
    return "\n\n".join(parts)


def _chunk_in_words(row: dict[str, Any]) -> str:
    cells = []
    for name, seconds in row["all_seconds"].items():
        try:
            cells.append(f"{name} {1e3 * median_seconds(name, seconds):.3f} ms")
        except NoisyTimingError:
            cells.append(f"{name} not stated, its repeats disagree")
    return f"A chunk of {row['points']:,} points ({row['problem']}): {', '.join(cells)}."


def main() -> int:
    """All steps; 1 where one broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU; nothing is written")
    rehearse = parser.parse_args().rehearse
    if not rehearse and not torch.cuda.is_available():
        raise SystemExit("expected a CUDA device; torch finds none: --rehearse runs the same steps on the CPU")
    device = torch.device("cpu" if rehearse else "cuda:0")
    result: dict[str, Any] = {"facts": facts(device, "scikit-learn", "torchgmm"), "rehearsal": rehearse}
    steps: dict[str, Callable[[], Any]] = {
        "tests": cuda_tests,
        "EM": lambda: em(device, rehearse),
        "chunk": lambda: chunks(device, rehearse),
        "detector": lambda: detector(device, rehearse),
        "training": lambda: training(device, rehearse),
    }
    sound = [step(name, work, result) for name, work in steps.items()]
    text = markdown(result)
    print(text)
    if not rehearse:
        save(RESULTS / "gpu.json", result)
        (RESULTS / "gpu.md").write_text(text + os.linesep, encoding="utf-8")
    return int(not all(sound))


if __name__ == "__main__":
    raise SystemExit(main())
