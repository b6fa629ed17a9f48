"""How soon is a change of a stream found, beside river's detectors at equal false-alarm rates?

    python benchmarks/stream_delay.py

Streams of scores, N(0, 1) until a change and N(-size, 1) after it, with a reference of the same source for each. Every
detector sees its reference before the stream, as much of it as it can use. Each threshold is set on clean streams of
other seeds, to the rate that the martingales promise without any; the rows "as promised" are those at 1 / rate. Writes
`benchmarks/results/stream_delay.json` and the table of `docs/guarantees.md`, a quarter of an hour on one core, most of
it KSWIN's. Exits with 1 where a promise is broken, tested at the level 0.01 / 3.
"""

import math
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import pages
import torch
from guarantees_page import ranged, span
from scipy import stats
from torch import Tensor

from gmm_torch.conformal.martingale import bet, gamble, online_p_values
from gmm_torch.conformal.reference_martingale import ReferenceMartingale
from gmm_torch.evaluation.binomial import interval

RESULTS = pages.RESULTS / "stream_delay.json"
PAGE = pages.ROOT / "docs" / "guarantees.md"
N_TUNING, N_CLEAN, N_CHANGED = 1000, 500, 200  # streams: for thresholds, false alarms, delays at each size
N_REFERENCE, N, CHANGE = 500, 600, 200
SIZES = (0.5, 1.0, 2.0)  # of the change, in standard deviations
RATE, LEVEL = 0.05, 0.01  # of clean streams with an alarm; of all tests of promises together
SEED, TUNING_SEED = 0, 1
NEVER = N

Paths = Callable[[Tensor, Tensor], Tensor]  # reference (S, n) and streams (S, N) to evidence (S, N), higher = more


def drawn(seed: int, n: int, size: float = 0.0) -> tuple[Tensor, Tensor]:
    """`n` references and streams."""
    generator = torch.Generator().manual_seed(seed)
    reference = torch.randn(n, N_REFERENCE, generator=generator, dtype=torch.float64)
    streams = torch.randn(n, N, generator=generator, dtype=torch.float64)
    streams[:, CHANGE:] -= size
    return reference, streams


def exchangeability(reference: Tensor, streams: Tensor) -> Tensor:
    """Log capital of `ExchangeabilityMartingale`, of all streams together."""
    uniform = 1 - torch.rand(streams.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return bet(online_p_values(streams, uniform, reference.sort().values).p_value).log_path


def against_reference(promise: Any) -> Paths:
    """Log capital of `ReferenceMartingale`."""

    def paths(reference: Tensor, streams: Tensor) -> Tensor:
        payoffs = [
            ReferenceMartingale(own, promise=promise, delta=RATE / 5).payoffs(stream)
            for own, stream in zip(reference, streams, strict=True)
        ]
        return gamble(torch.stack(payoffs)).log_path

    return paths


def kswin(reference: Tensor, streams: Tensor) -> Tensor:
    """-log p of river's KSWIN, which never resets at a level that it never reaches."""
    from river.drift import KSWIN

    rows = []
    for own, stream in zip(reference.tolist(), streams.tolist(), strict=True):
        detector, row = KSWIN(alpha=1e-300, window_size=100, stat_size=30, seed=0), []
        for value in (*own[-100:], *stream):
            detector.update(value)
            row.append(-math.log(max(detector.p_value, 1e-299)) if detector.n else 0.0)
        rows.append(row[100:])
    return torch.tensor(rows, dtype=torch.float64)


def threshold_of(paths: Tensor) -> float:
    """The lowest that at most a share `RATE` of clean streams reach; evidence that comes in steps has ties."""
    highest = paths.amax(1).sort(descending=True).values
    return float(torch.nextafter(highest[int(RATE * len(paths))], highest.new_tensor(torch.inf)))


def first_at(paths: Tensor, threshold: float) -> Tensor:
    """(S,) int64, the input at which the evidence reaches the threshold; N for never."""
    reached = paths >= threshold
    return torch.where(reached.any(1), reached.int().argmax(1), NEVER)


def first_of_river(make: Callable[[], Any], reference: Tensor, streams: Tensor) -> Tensor:
    """(S,) int64, the first alarm of a detector of river behind the reference."""
    found = []
    for own, stream in zip(reference.tolist(), streams.tolist(), strict=True):
        detector = make()
        for value in own:
            detector.update(value)
        at = NEVER
        for i, value in enumerate(stream):
            detector.update(value)
            if detector.drift_detected:
                at = i
                break
        found.append(at)
    return torch.tensor(found)


def rivers() -> dict[str, tuple[Callable[[float], Callable[[], Any]], list[float]]]:
    """Detectors of river by name: what makes one, and settings from the strictest on."""
    from river.drift import ADWIN, PageHinkley

    return {
        "ADWIN": (lambda x: lambda: ADWIN(delta=x, clock=1), np.geomspace(1e-8, 0.5, 400).tolist()),
        "Page-Hinkley": (
            lambda x: lambda: PageHinkley(threshold=x, delta=0.1, alpha=1.0, mode="down"),
            np.geomspace(200, 2, 400).tolist(),
        ),
    }


def row_of(name: str, alarms: Mapping[float, Tensor], setting: float) -> dict[str, Any]:
    """False alarms, and delays behind the change of those that found it in time and not before."""
    clean = int((alarms[0.0] < NEVER).sum())
    row: dict[str, Any] = {"detector": name, "setting": setting, "n_false": clean, "rate": clean / N_CLEAN}
    row["interval"] = interval(clean, N_CLEAN)
    for size in SIZES:
        at = alarms[size]
        fair = at[at >= CHANGE]
        hit = fair[fair < NEVER] - CHANGE
        row[f"found_{size:g}"] = len(hit) / max(1, len(fair))
        row[f"delay_{size:g}"] = float(torch.where(fair < NEVER, fair - CHANGE, N).double().median())
    return row


def measured() -> list[dict[str, Any]]:
    """All rows."""
    streams = {0.0: drawn(SEED, N_CLEAN), **{size: drawn(SEED, N_CHANGED, size) for size in SIZES}}
    tuning = drawn(TUNING_SEED, N_TUNING)
    rows = []
    ours: dict[str, tuple[Paths, bool]] = {
        "`ExchangeabilityMartingale`": (exchangeability, True),
        '`ReferenceMartingale`, "average"': (against_reference("average"), True),
        '`ReferenceMartingale`, "set"': (against_reference("set"), True),
        "KSWIN": (kswin, False),
    }
    for name, (paths, promises) in ours.items():
        tuned = threshold_of(paths(*tuning))
        found = {size: paths(*both) for size, both in streams.items()}
        for words, threshold in ((", as promised", -math.log(RATE)), ("", tuned))[not promises :]:
            alarms = {size: first_at(path, threshold) for size, path in found.items()}
            rows.append(row_of(name + words, alarms, math.exp(threshold) if promises else math.exp(-threshold)))
        print(name, flush=True)
    for name, (make, settings) in rivers().items():
        low, high = 0, len(settings) - 1  # the most sensitive one that keeps the rate on the tuning streams
        while low < high:
            middle = (low + high + 1) // 2
            rate = float((first_of_river(make(settings[middle]), *tuning) < NEVER).double().mean())
            low, high = (middle, high) if rate <= RATE else (low, middle - 1)
        alarms = {size: first_of_river(make(settings[low]), *both) for size, both in streams.items()}
        rows.append(row_of(name, alarms, settings[low]))
        print(name, flush=True)
    return rows


def document(result: Mapping[str, Any]) -> str:
    """The table, and what it rests on."""
    head = ["detector", "clean streams with an alarm, % (95 % interval)"]
    head += [f"delay at a change of {size:g}, inputs (found, %)" for size in SIZES]
    rows = []
    for row in result["rows"]:
        cells = []
        for size in SIZES:
            delay = row[f"delay_{size:g}"]
            cells.append(f"{'–' if delay >= N - CHANGE else f'{delay:.0f}'} ({100 * row[f'found_{size:g}']:.0f})")
        rows.append([row["detector"], ranged(row), *cells])
    versions = ", ".join(f"{name} {each}" for name, each in result["versions"].items())
    tests = result["tests"]
    words = (
        f"Streams of {N} scores, N(0, 1) with a reference of {N_REFERENCE} each; the change, in standard deviations, "
        f"comes at {CHANGE}. {N_CLEAN} clean streams, and {N_CHANGED} for the delays of a column. Median delays; a "
        f"dash: most are not found in {N - CHANGE} inputs. Streams with an alarm before the change don't count. But "
        f'for the rows "as promised", each threshold is the lowest that at most {100 * RATE:g} % of {N_TUNING:,} clean '
        f"streams of another seed reach, which is {100 * RATE:g} % of all within "
        f"{span(interval(int(RATE * N_TUNING), N_TUNING))}. KSWIN's evidence comes in steps, so its rate may be lower. "
        "No detector of river has a promise for its rate. "
        f"{len(tests)} tests of the promise at {LEVEL:g} / {len(tests)} each: smallest p-value "
        f"{min(tests.values()):.2g}. Seed {SEED}; {versions}."
    )
    return f"{pages.table(head, rows)}\n\n{words}"


def main() -> int:
    """Run everything; see the first lines of the module."""
    torch.set_num_threads(1)
    rows = measured()
    tests = {
        row["detector"]: float(stats.binomtest(row["n_false"], N_CLEAN, RATE, alternative="greater").pvalue)
        for row in rows
        if "as promised" in row["detector"]
    }
    versions = {"torch": torch.__version__, "numpy": np.__version__, "river": version("river")}
    result = {"rows": rows, "tests": tests, "versions": versions}
    pages.save(RESULTS, result)
    pages.fill(PAGE, "delays", document(result))
    broken = [name for name, p in tests.items() if p < LEVEL / len(tests)]
    for name in broken:
        print("broken:", name)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
