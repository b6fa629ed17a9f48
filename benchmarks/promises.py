"""Measured rates of the promises on what one finds, on streams and on accepted predictions, each beside a control.

    python benchmarks/promises.py

A control is what one might do without the method, under the same conditions; it must break the promise. Writes
`benchmarks/results/promises.json` and the table of `docs/guarantees.md`, two minutes on one core. Exits with 1 where a
promise is broken or a control keeps it; each is tested at LEVEL divided by their number, so the chance of any false
alarm is at most LEVEL. Rates are means of independent repetitions of numbers in [0, 1], tested by betting.
"""

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pages
import torch
from scipy import stats
from torch import Tensor

from gmm_torch.conformal.adaptive_alpha import AdaptiveAlpha
from gmm_torch.conformal.conformal_selection import conformal_selection
from gmm_torch.conformal.discovery_bounds import DiscoveryBounds, discovery_bounds
from gmm_torch.conformal.e_values import e_discoveries, soft_rank_e_values
from gmm_torch.conformal.false_discovery import discoveries
from gmm_torch.conformal.martingale import bet, gamble
from gmm_torch.conformal.online_discovery import OnlineDiscoveries
from gmm_torch.conformal.p_values import conformal_p_value, smoothed_p_value
from gmm_torch.conformal.reference_martingale import ReferenceMartingale
from gmm_torch.conformal.risk_monitor import payoffs

RESULTS = pages.RESULTS / "promises.json"
PAGE = pages.ROOT / "docs" / "guarantees.md"
LEVEL, SEED = 0.01, 0


class Measured(NamedTuple):
    """Of each repetition a number in [0, 1], whose mean is at most `bound`; likewise without the method."""

    bound: float
    values: list[float]
    control: list[float]


def proportion(found: Tensor, bad: Tensor) -> float:
    """Share of the named that should not be."""
    return float((found & bad).sum() / found.sum().clamp(min=1))


def bounds_after_looking(g: torch.Generator) -> Measured:
    """Any bound at any threshold is exceeded; as if p-values were independent."""
    n, m, delta = 60, 100, 0.2

    def fails(p: Tensor, bounds: DiscoveryBounds) -> float:
        return float(bool(((p[:, None] <= bounds.thresholds).sum(0) > bounds.at_most).any()) or bounds.n_good < m)

    values, control = [], []
    for _ in range(1000):
        scores = torch.randn(n + m, generator=g)
        p = conformal_p_value(scores[n:], scores[:n].sort().values)
        values.append(fails(p, discovery_bounds(p, n, delta)))
        control.append(fails(p, discovery_bounds(p, 10**6, delta)))
    return Measured(delta, values, control)


def unseen(g: torch.Generator) -> Measured:
    """Share wrong of the predictions selected; of those with p > q."""
    n, m, q = 40, 30, 0.2
    values, control = [], []
    for _ in range(2000):
        scores = torch.rand(n + m, generator=g)
        wrong = torch.rand(n + m, generator=g) < 0.9 * (1 - scores)
        values.append(proportion(conformal_selection(scores[n:], scores[:n], wrong[:n], q), wrong[n:]))
        control.append(proportion(conformal_p_value(scores[n:], scores[:n].sort().values) > q, wrong[n:]))
    return Measured(q, values, control)


def dependent(g: torch.Generator) -> Measured:
    """Anything named among good inputs whose p-values fall together (Guo, Rao 2008); by Benjamini and Hochberg."""
    n, m, q = 400, 10, 0.3
    chance = torch.cat([q / torch.arange(1, m + 1), torch.zeros(1)])
    chance[-1] = 1 - chance.sum()
    values, control = [], []
    for k in (torch.multinomial(chance, 1500, replacement=True, generator=g) + 1).tolist():
        p = torch.full((m,), q) + (1 - q) * torch.rand(m, generator=g)
        if k <= m:
            p[torch.randperm(m, generator=g)[:k]] = (k - 1 + torch.rand(k, generator=g)) * q / m
        calibration = torch.rand(n, generator=g)
        control.append(float(discoveries(conformal_p_value(p, calibration.sort().values), q).any()))
        values.append(float(e_discoveries(soft_rank_e_values(-((1 - p).log()), -((1 - calibration).log())), q).any()))
    return Measured(q, values, control)


def one_by_one(g: torch.Generator) -> Measured:
    """Share of good inputs among those named in a stream; of those with p <= q."""
    n, length, q = 3000, 45, 0.3
    good = torch.arange(length) % 8 > 0
    values, control = [], []
    for _ in range(300):
        calibration, x = torch.randn(n, generator=g), torch.randn(length, generator=g) - 4 * ~good
        p = conformal_p_value(x, calibration.sort().values)
        values.append(proportion(OnlineDiscoveries(q, 1 / (n + 1), "lond").update(p).found, good))
        control.append(proportion(p <= q, good))
    return Measured(q, values, control)


def against_reference(promise: Any, delta: float) -> Callable[[torch.Generator], Measured]:
    """A clean stream has an alarm; with bets on p-values among the reference."""

    def measure(g: torch.Generator) -> Measured:
        n, length, threshold, repetitions = 40, 400, 5, 600
        scores = torch.randn(repetitions, n + length, generator=g)
        streams = [(row[:n], row[n:]) for row in scores]
        bets = [
            ReferenceMartingale(r, threshold, promise, delta, seed=i).payoffs(x) for i, (r, x) in enumerate(streams)
        ]
        u = 1 - torch.rand(repetitions, length, generator=g)
        p = [smoothed_p_value(x, r.sort().values, draw) for (r, x), draw in zip(streams, u, strict=True)]
        paths = gamble(torch.stack(bets)).log_path, bet(torch.stack(p)).log_path
        ours, naive = ((path >= math.log(threshold)).any(1).double().tolist() for path in paths)
        return Measured(1 / threshold + delta * (promise == "set"), ours, naive)

    return measure


def adversarial(g: torch.Generator) -> Measured:
    """Distance of the share refused from its target, over its bound, on streams that turn about; with a fixed alpha."""
    target, length = 0.1, 1000
    values, control = [], []
    for _ in range(40):
        turns = torch.randint(50, 400, (length,), generator=g)
        place = torch.zeros(length, dtype=torch.long)
        place[turns.cumsum(0)[turns.cumsum(0) < length]] = 1
        p = torch.rand(length, generator=g).double() ** torch.where(place.cumsum(0) % 2 == 1, 6.0, 1.0)
        adaptive = AdaptiveAlpha(target, controls="refused", rates=(0.05,))
        adaptive.update(p)
        values.append(float(abs(adaptive.rate - target) > adaptive.bound))
        control.append(float(abs(float((p <= target).double().mean()) - target) > adaptive.bound))
    return Measured(0.0, values, control)


def errors_among_accepted(g: torch.Generator) -> Measured:
    """A stream at its target has an alarm; with a binomial test at every tenth label."""
    target, delta, repetitions, n = 0.2, 0.1, 2000, 250
    errors = torch.rand(repetitions, n, generator=g) < target
    looks = torch.arange(10, n + 1, 10)
    p = stats.binom.sf(errors.cumsum(1)[:, looks - 1].numpy() - 1, looks.numpy(), target)
    alarms = (gamble(payoffs(errors, target)).log_path >= -math.log(delta)).any(1)
    return Measured(delta, alarms.double().tolist(), (p <= delta).any(1).astype(float).tolist())


PROMISES: dict[str, tuple[Callable[[torch.Generator], Measured], str]] = {
    "`discovery_bounds`: some bound is exceeded": (bounds_after_looking, "as if p-values were independent"),
    "`conformal_selection`: wrong among the selected": (unseen, "p-values above q"),
    "`e_discoveries`, dependent p-values: something good is named": (dependent, "Benjamini-Hochberg"),
    '`OnlineDiscoveries("lond")`: good among the named': (one_by_one, "p-values at most q"),
    '`ReferenceMartingale`, "average": a clean stream has an alarm': (
        against_reference("average", 0.05),
        "bets on p-values",
    ),
    '`ReferenceMartingale`, "set": likewise': (against_reference("set", 0.05), "bets on p-values"),
    "`AdaptiveAlpha`, streams that turn about: its bound is exceeded": (adversarial, "a fixed alpha"),
    "`RiskMonitor`: a stream at its target has an alarm": (errors_among_accepted, "a test at every tenth label"),
}


def p_value(values: list[float], bound: float) -> float:
    """Of "the mean is at most the bound": the inverse of the mean capital of twenty bets, valid for any n.

    For a bound of 0, which holds always, 0 or 1.
    """
    if bound == 0:  # what holds always
        return float(not any(values))
    found = torch.tensor(values, dtype=torch.float64)
    bets = torch.linspace(0.05, 1, 20, dtype=torch.float64)[:, None]
    return float((-((1 + bets * (found - bound)).log().sum(1).logsumexp(0) - math.log(20))).exp().clamp(max=1))


def document(result: Mapping[str, Any]) -> str:
    """The table, and what it rests on."""
    rows = [
        [
            row["promise"],
            f"{100 * row['bound']:g}",
            f"{100 * row['rate']:.1f}",
            row["control"],
            f"{100 * row['control_rate']:.1f}",
            f"{row['n']:,}",
        ]
        for row in result["rows"]
    ]
    head = ["promise", "at most, %", "measured, %", "control", "measured, %", "repetitions"]
    n, versions = 2 * len(rows), ", ".join(f"{name} {each}" for name, each in result["versions"].items())
    words = (
        f"{n} tests at {LEVEL:g} / {n} each: no promise is broken, smallest p-value "
        f"{min(row['p'] for row in result['rows']):.2g}; every control breaks it, largest p-value "
        f"{max(row['control_p'] for row in result['rows']):.0e}. Simulated scores, seed {SEED}; {versions}."
    )
    return f"{pages.table(head, rows)}\n\n{words}"


def main() -> int:
    """Run everything; see the first lines of the module."""
    torch.set_num_threads(1)
    rows = []
    for i, (name, (measure, control)) in enumerate(PROMISES.items()):
        found = measure(torch.Generator().manual_seed(SEED + i))
        n = len(found.values)
        rows.append(
            {
                "promise": name,
                "bound": found.bound,
                "rate": sum(found.values) / n,
                "p": p_value(found.values, found.bound),
                "control": control,
                "control_rate": sum(found.control) / n,
                "control_p": p_value(found.control, found.bound),
                "n": n,
            }
        )
        print(rows[-1], flush=True)
    result = {"rows": rows, "versions": {"torch": torch.__version__}}
    pages.save(RESULTS, result)
    pages.fill(PAGE, "promises", document(result))
    level = LEVEL / (2 * len(rows))
    broken = [row["promise"] for row in rows if row["p"] < level or row["control_p"] >= level]
    for name in broken:
        print("broken:", name)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
