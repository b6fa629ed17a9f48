"""What `torch.compile` and a CUDA graph gain on the chunk of an E-step, on a card: a step of `bench_gpu.py`.

A chunk decides nothing by its numbers and has static shapes, so a card can replay its operations without the host that
starts them. Replayed and compiled chunks are held to the statistics of the chunk as it is, on points that neither has
seen, before they are timed. The three take turns.
"""

from collections.abc import Callable
from typing import Any

import torch
from em_compiled import step_of
from problems import Problem, seconds_of
from timings import REPEATS
from torch import Tensor

from gmm_torch.mixture.e_step import EStep
from gmm_torch.mixture.statistics import Statistics

WARM_UPS = 3  # calls before a capture, in which libraries take their memory

Chunk = Callable[[Tensor], Statistics]


def captured(step: EStep, like: Tensor) -> Chunk:
    """`step.chunk` as a CUDA graph, for points of one shape; each result stands until the next call.

    Args:
        step: on a CUDA device.
        like: (n, D) points there.
    """
    points, stream = like.clone(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            step.chunk(points, None)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step.chunk(points, None)

    def replay(x: Tensor) -> Statistics:
        points.copy_(x)
        graph.replay()
        return found

    return replay


def compiled(step: EStep) -> Chunk:
    """`step.chunk` by inductor."""
    torch.compiler.reset()
    chunk = torch.compile(EStep.chunk, fullgraph=True, dynamic=False)
    return lambda x: chunk(step, x, None)


def ways(step: EStep, x: Tensor) -> dict[str, Chunk]:
    """Every way to compute a chunk on the device of x (n, D)."""
    found: dict[str, Chunk] = {"as it is": lambda x: step.chunk(x, None), "compiled": compiled(step)}
    if x.is_cuda:
        found["captured"] = captured(step, x)
    return found


def measure(problem: Problem, device: torch.device) -> dict[str, Any]:
    """Seconds of a chunk of the size that a fit would take, by every way."""
    x = problem.points().to(device)
    step = step_of(problem, x)
    first, other = x[: min(len(x) // 2, step._chunk)], x[-min(len(x) // 2, step._chunk) :]
    chunks = ways(step, first)
    for name, chunk in chunks.items():
        found, expected = chunk(other), step.chunk(other, None)
        torch.testing.assert_close(found.log_likelihood, expected.log_likelihood, rtol=1e-5, atol=0, msg=name)
    seconds: dict[str, list[float]] = {name: [] for name in chunks}
    for _ in range(REPEATS):
        for name, chunk in chunks.items():
            seconds[name].append(seconds_of(lambda chunk=chunk: chunk(other), device))  # type: ignore[misc]
    return {"problem": problem.name, "points": len(first), "all_seconds": seconds}
