"""Measured rates of the promises, each beside a control and beside other libraries that promise the same kind of thing.

    python benchmarks/promises.py

A control is what one might do without the method, under the same conditions; it must break the promise. Peers get the
scores of the same repetitions; see `promise_peers.py`. Writes `benchmarks/results/promises.json` and the table of
`docs/guarantees.md`, ten minutes on one core. Exits with 1 where a promise is broken or a control keeps it; each is
tested at LEVEL divided by their number, so the chance of any false alarm is at most LEVEL. Peers are tested likewise,
at another LEVEL. Rates are means of independent repetitions of numbers in [0, 1], tested by betting.
"""

import math
import platform
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pages
import torch
from promise_peers import LIBRARIES, installed, peers, quiet
from scipy import stats
from torch import Tensor

from gmm_torch.conformal.adaptive_alpha import AdaptiveAlpha
from gmm_torch.conformal.conditional_calibration import ConditionalCalibration
from gmm_torch.conformal.conformal_selection import conformal_selection
from gmm_torch.conformal.discovery_bounds import discovery_bounds
from gmm_torch.conformal.e_values import e_discoveries, soft_rank_e_values
from gmm_torch.conformal.false_discovery import discoveries
from gmm_torch.conformal.martingale import bet, gamble, online_p_values
from gmm_torch.conformal.online_discovery import OnlineDiscoveries
from gmm_torch.conformal.p_values import conformal_p_value, smoothed_p_value
from gmm_torch.conformal.reference_martingale import ReferenceMartingale
from gmm_torch.conformal.risk_monitor import payoffs
from gmm_torch.conformal.selective import UnattainableRiskError, select_threshold
from gmm_torch.conformal.shift_or_loss import ShiftOrLoss
from gmm_torch.conformal.time_windows import TimeWindows
from gmm_torch.conformal.weighted_p_value import weighted_p_value
from gmm_torch.conformal.weighted_selection import weighted_conformal_selection, weighted_discoveries

RESULTS = pages.RESULTS / "promises.json"
PAGE = pages.ROOT / "docs" / "guarantees.md"
LEVEL, SEED = 0.01, 0
N_POWER = 200  # repetitions of which the power is a mean, at most
OURS, CONTROL = ("gmm_torch", ""), ("control", "")

Name = tuple[str, str]  # library, and words where it offers several


class Found(NamedTuple):
    """Of each repetition a number in [0, 1], whose mean is to be at most the bound; and what was there to find."""

    values: list[float]
    power: list[float]


class Measured(NamedTuple):
    """What a promise's bound is, and what each method did."""

    bound: float
    found: dict[Name, Found]


def methods(ours: Any, control: Any, call: str = "") -> dict[Name, Any]:
    """All that are called alike."""
    return {OURS: ours, CONTROL: control, **(peers(call) if call else {})}


def empty(runs: Mapping[Name, Any]) -> dict[Name, Found]:
    """To be filled."""
    return {name: Found([], []) for name in runs}


def proportion(found: Tensor, bad: Tensor) -> float:
    """Share of the named that should not be."""
    return float((found & bad).sum() / found.sum().clamp(min=1))


def share(found: Tensor, wanted: Tensor) -> float:
    """Share of the wanted that are named."""
    return float((found & wanted).sum() / wanted.sum().clamp(min=1))


def one_input(g: torch.Generator) -> Measured:
    """Share of good inputs with p <= alpha; with the rank among n alone."""
    n, m, alpha = 20, 20, 0.05
    runs = methods(
        lambda scores, calibration, seed: conformal_p_value(scores, calibration.sort().values),
        lambda scores, calibration, seed: (calibration <= scores[:, None]).double().mean(1),
        "p_value",
    )
    found = empty(runs)
    for seed in range(1000):
        scores = torch.randn(n + 2 * m, generator=g) - 2.5 * (torch.arange(n + 2 * m) >= n + m)
        for name, p_value in runs.items():
            refused = p_value(scores[n:], scores[:n], seed) <= alpha
            found[name].values.append(float(refused[:m].double().mean()))
            found[name].power.append(float(refused[m:].double().mean()))
    return Measured(alpha, found)


def this_set(g: torch.Generator) -> Measured:
    """A calibration set whose rate exceeds some alpha; with plain p-values."""
    n, delta, alpha = 200, 0.1, 0.05

    def ours(method: str) -> Callable[..., Tensor]:
        return lambda scores, calibration, delta: (
            ConditionalCalibration(delta, method).fit(calibration, alpha).p_value(scores)
        )

    runs = methods(
        ours("berk_jones"),  # the default
        lambda scores, calibration, delta: conformal_p_value(scores, calibration.sort().values),
        "conditional",
    )
    runs["gmm_torch", "Simes"] = ours("simes")
    found = empty(runs)
    for _ in range(1000):
        calibration = torch.rand(n, generator=g, dtype=torch.float64)
        edges = calibration.sort().values  # an input just below the k-th has its p-value with a chance of its value
        failures = torch.rand(100, generator=g, dtype=torch.float64) ** 6
        for name, p_value in runs.items():
            p = p_value(torch.cat([edges - 1e-12, failures]), calibration, delta)
            found[name].values.append(float((edges > p[:n] + 1e-9).any()))
            found[name].power.append(float((p[n:] <= alpha).double().mean()))
    return Measured(delta, found)


def a_batch(call: str, storey: bool, n_failures: int) -> Callable[[torch.Generator], Measured]:
    """Share of good inputs among those named; of those with p <= q."""

    def measure(g: torch.Generator) -> Measured:
        n, m, q = 200, 50, 0.2
        good = torch.arange(m) >= n_failures
        runs = methods(
            lambda scores, calibration, q: discoveries(
                conformal_p_value(scores, calibration.sort().values), q, storey=storey
            ),
            lambda scores, calibration, q: conformal_p_value(scores, calibration.sort().values) <= q,
            call,
        )
        found = empty(runs)
        for _ in range(1000):
            calibration, scores = torch.randn(n, generator=g), torch.randn(m, generator=g) - 2.5 * ~good
            for name, method in runs.items():
                named = method(scores, calibration, q)
                found[name].values.append(proportion(named, good))
                found[name].power.append(share(named, ~good))
        return Measured(q, found)

    return measure


def bounds_after_looking(g: torch.Generator) -> Measured:
    """Any bound at any threshold is exceeded; as if p-values were independent."""
    n, m, delta, n_failures, threshold = 60, 100, 0.2, 20, 0.1

    def exact(p: Tensor, n: int, delta: float) -> tuple[Tensor, Tensor]:
        found = discovery_bounds(p, n, delta)
        ordered = p.unique()
        return ordered, torch.tensor([found.good(p <= each) for each in ordered])

    runs = methods(exact, lambda p, n, delta: exact(p, 10**6, delta), "bounds")
    found = empty(runs)
    for i in range(600):
        scores = torch.randn(n + m, generator=g)
        p = conformal_p_value(scores[n:], scores[:n].sort().values)
        scores[n : n + n_failures] -= 3
        mixed = conformal_p_value(scores[n:], scores[:n].sort().values)
        for name, method in runs.items():
            thresholds, good = method(p, n, delta)
            found[name].values.append(float(((p[:, None] <= thresholds).sum(0) > good).any()))
            if i < N_POWER:
                thresholds, good = method(mixed, n, delta)
                up_to = int((thresholds <= threshold).sum()) - 1
                sure = (mixed <= threshold).sum() - good[up_to] if up_to >= 0 else 0
                found[name].power.append(float(sure) / n_failures)
    return Measured(delta, found)


def unseen(g: torch.Generator) -> Measured:
    """Share wrong of the predictions selected; of those with p > q."""
    n, m, q = 40, 30, 0.2
    runs = methods(
        conformal_selection,
        lambda scores, calibration, errors, q: conformal_p_value(scores, calibration.sort().values) > q,
    )
    found = empty(runs)
    for _ in range(2000):
        scores = torch.rand(n + m, generator=g)
        wrong = torch.rand(n + m, generator=g) < 0.9 * (1 - scores)
        for name, method in runs.items():
            out = method(scores[n:], scores[:n], wrong[:n], q)
            found[name].values.append(proportion(out, wrong[n:]))
            found[name].power.append(share(out, ~wrong[n:]))
    return Measured(q, found)


def dependent(g: torch.Generator) -> Measured:
    """Anything named among good inputs whose p-values fall together (Guo, Rao 2008); by Benjamini and Hochberg."""
    n, m, q = 400, 10, 0.3
    chance = torch.cat([q / torch.arange(1, m + 1), torch.zeros(1)])
    chance[-1] = 1 - chance.sum()
    runs = methods(
        lambda scores, calibration, q: e_discoveries(soft_rank_e_values(scores, calibration), q),
        lambda scores, calibration, q: discoveries(conformal_p_value(scores, calibration.sort().values), q),
        "e_values",
    )
    found = empty(runs)
    for i, k in enumerate((torch.multinomial(chance, 1500, replacement=True, generator=g) + 1).tolist()):
        p = torch.full((m,), q) + (1 - q) * torch.rand(m, generator=g)
        if k <= m:
            p[torch.randperm(m, generator=g)[:k]] = (k - 1 + torch.rand(k, generator=g)) * q / m
        calibration = -((1 - torch.rand(n, generator=g)).log())
        mixed = -((1 - torch.rand(m, generator=g)).log())
        mixed[:3] = -2 * torch.rand(3, generator=g)
        for name, method in runs.items():
            found[name].values.append(float(method(-((1 - p).log()), calibration, q).any()))
            if i < N_POWER:
                found[name].power.append(float(method(mixed, calibration, q)[:3].double().mean()))
    return Measured(q, found)


def one_by_one(g: torch.Generator) -> Measured:
    """Share of good inputs among those named in a stream; of those with p <= q."""
    n, length, q = 3000, 45, 0.3
    good = torch.arange(length) % 8 > 0
    runs = methods(
        lambda p, q, smallest: OnlineDiscoveries(q, smallest, "lond").update(p).found,
        lambda p, q, smallest: p <= q,
        "online",
    )
    found = empty(runs)
    for _ in range(300):
        calibration, x = torch.randn(n, generator=g), torch.randn(length, generator=g) - 4 * ~good
        p = conformal_p_value(x, calibration.sort().values)
        for name, method in runs.items():
            named = method(p, q, 1 / (n + 1))
            found[name].values.append(proportion(named, good))
            found[name].power.append(share(named, ~good))
    return Measured(q, found)


def bets_on_p_values(reference: Tensor, stream: Tensor, threshold: float, seed: int) -> bool:
    """As if p-values among a fixed reference were independent."""
    uniform = 1 - torch.rand(len(stream), generator=torch.Generator().manual_seed(seed))
    p = smoothed_p_value(stream, reference.sort().values, uniform)
    return bool((bet(p).log_path >= math.log(threshold)).any())


def against_all(reference: Tensor, stream: Tensor, threshold: float, seed: int) -> bool:
    """`ExchangeabilityMartingale`, which ranks among the reference and the stream so far."""
    uniform = 1 - torch.rand(len(stream), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    p = online_p_values(stream, uniform, reference.sort().values).p_value
    return bool((bet(p).log_path >= math.log(threshold)).any())


def a_stream(alarm: Callable[..., bool], call: str = "", delta: float = 0.0) -> Callable[[torch.Generator], Measured]:
    """A clean stream has an alarm; with bets on p-values among the reference."""

    def measure(g: torch.Generator) -> Measured:
        n, length, threshold = 40, 400, 5
        runs = methods(alarm, bets_on_p_values, call)
        found = empty(runs)
        for i in range(600):
            scores = torch.randn(n + length, generator=g)
            for name, alarms in runs.items():
                found[name].values.append(float(alarms(scores[:n], scores[n:], threshold, i)))
                if i < N_POWER:
                    found[name].power.append(float(alarms(scores[:n], scores[n:] - 0.5, threshold, i)))
        return Measured(1 / threshold + delta, found)

    return measure


def against_reference(promise: Any, delta: float) -> Callable[..., bool]:
    """`ReferenceMartingale`."""
    return lambda r, x, threshold, seed: ReferenceMartingale(r, threshold, promise, delta, seed=seed).update(x).alarm


def in_windows(g: torch.Generator) -> Measured:
    """Share of windows of time with an alarm, on clean streams; with bets on p-values, begun anew in each window."""
    n, length, windows, threshold = 40, 200, 3, 5
    times = torch.arange(windows * length, dtype=torch.float64)

    def ours(reference: Tensor, stream: Tensor, threshold: float, seed: int) -> list[bool]:
        watch = TimeWindows(ReferenceMartingale(reference, threshold, seed=seed), seconds=length)
        watch.update(stream, times)
        return [window.alarm_at is not None for window in watch.windows]

    def control(reference: Tensor, stream: Tensor, threshold: float, seed: int) -> list[bool]:
        parts = stream.split(length)
        return [bets_on_p_values(reference, part, threshold, windows * seed + i) for i, part in enumerate(parts)]

    runs = methods(ours, control)
    found = empty(runs)
    for i in range(600):
        scores = torch.randn(n + windows * length, generator=g)
        for name, alarms in runs.items():
            found[name].values.append(sum(alarms(scores[:n], scores[n:], threshold, i)) / windows)
            if i < N_POWER:
                found[name].power.append(sum(alarms(scores[:n], scores[n:] - 0.5, threshold, i)) / windows)
    return Measured(1 / threshold, found)


def here_and_there(n: int, m: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Covariates in [0, 1]: n of here, even, and m of elsewhere, of density 3 (1 - x)^2."""
    return torch.rand(n, generator=g).double(), 1 - torch.rand(m, generator=g).double() ** (1 / 3)


def log_weight_of(x: Tensor) -> Tensor:
    """Of elsewhere and here; at most log 3, so nothing is cut."""
    return math.log(3.0) + 2 * torch.log1p(-x)


def shift_or_loss(alarm: str) -> Callable[[torch.Generator], Measured]:
    """Inputs moved as the weights say, and accuracy as that explains: an alarm that says otherwise; without weights."""

    def measure(g: torch.Generator) -> Measured:
        n, length, threshold = 300, 250, 5

        def raised(weights: Tensor, largest: float, *data: Tensor, seed: int) -> bool:
            scores, outcomes, stream, of_stream = data
            both = ShiftOrLoss(scores, outcomes, weights, largest, threshold, seed=seed)
            both.update(stream)
            both.label(torch.arange(length), of_stream)
            return getattr(both.record, alarm) is not None

        found = {OURS: Found([], []), CONTROL: Found([], [])}
        for seed in range(600):
            x, there = here_and_there(n, length, g)
            right, as_before = ((torch.rand(len(each), generator=g) < 0.5 + 0.5 * each).double() for each in (x, there))
            fell = (torch.rand(length, generator=g) < 0.2 + 0.5 * there).double()
            worse = (0.7 * there, as_before) if alarm == "adapted_at" else (there, fell)
            for name, weights, most in ((OURS, log_weight_of(x), 3.0), (CONTROL, torch.zeros(n), 1.0)):
                found[name].values.append(float(raised(weights, most, x, right, there, as_before, seed=seed)))
                if seed < N_POWER:
                    found[name].power.append(float(raised(weights, most, x, right, *worse, seed=seed)))
        return Measured(1 / threshold, found)

    return measure


def adversarial(g: torch.Generator) -> Measured:
    """Distance of the share refused from its target, over its bound, on streams that turn about; with a fixed alpha."""
    target, length, rate = 0.1, 1000, 0.05
    runs = methods(
        lambda p, target, rate: AdaptiveAlpha(target, controls="refused", rates=(rate,)).update(p).refused,
        lambda p, target, rate: p <= target,
        "adaptive",
    )
    found = empty(runs)
    for _ in range(40):
        turns = torch.randint(50, 400, (length,), generator=g)
        place = torch.zeros(length, dtype=torch.long)
        place[turns.cumsum(0)[turns.cumsum(0) < length]] = 1
        p = torch.rand(length, generator=g).double() ** torch.where(place.cumsum(0) % 2 == 1, 6.0, 1.0)
        adaptive = AdaptiveAlpha(target, controls="refused", rates=(rate,))
        adaptive.update(p)
        for name, refused in runs.items():
            distance = abs(float(refused(p, target, rate).double().mean()) - target)
            found[name].values.append(float(distance > adaptive.bound))
    return Measured(0.0, found)


def errors_among_accepted(g: torch.Generator) -> Measured:
    """A stream at its target has an alarm; with a binomial test at every tenth label."""
    target, delta, repetitions, n = 0.2, 0.1, 1000, 250
    looks = torch.arange(10, n + 1, 10)

    def tests(errors: Tensor, target: float, delta: float) -> bool:
        p = stats.binom.sf(errors.cumsum(0)[looks - 1].numpy() - 1, looks.numpy(), target)
        return bool((p <= delta).any())

    runs = methods(
        lambda errors, target, delta: bool((gamble(payoffs(errors, target)).log_path >= -math.log(delta)).any()),
        tests,
        "risk",
    )
    found = empty(runs)
    for i in range(repetitions):
        draws = torch.rand(n, generator=g)
        for name, alarms in runs.items():
            found[name].values.append(float(alarms(draws < target, target, delta)))
            if i < N_POWER:
                found[name].power.append(float(alarms(draws < target + 0.08, target, delta)))
    return Measured(delta, found)


def accepted_errors(g: torch.Generator) -> Measured:
    """A labelled set whose threshold has an error rate above the target; with the lowest whose observed rate is it."""
    n, target, delta = 1000, 0.2, 0.1

    def ours(scores: Tensor, errors: Tensor, target: float, delta: float) -> float | None:
        try:
            return select_threshold(scores, errors, target, delta).threshold
        except UnattainableRiskError:
            return None

    def observed(scores: Tensor, errors: Tensor, target: float, delta: float) -> float | None:
        order = scores.argsort(descending=True)
        kept = (errors[order].double().cumsum(0) / torch.arange(1, n + 1) <= target).nonzero()
        return float(scores[order][kept[-1, 0]]) if len(kept) else None

    runs = methods(ours, observed, "threshold")
    found = empty(runs)
    for _ in range(1000):
        scores = torch.rand(n, generator=g)
        errors = torch.rand(n, generator=g) < 0.9 * (1 - scores)
        for name, method in runs.items():
            threshold = method(scores, errors, target, delta)
            accepted = 0.0 if threshold is None else 1 - threshold
            found[name].values.append(float(0.45 * accepted > target))  # the error rate above a threshold
            found[name].power.append(accepted)
    return Measured(delta, found)


def another_camera(g: torch.Generator) -> Measured:
    """Share of good inputs from elsewhere with p <= alpha; with plain p-values."""
    n, m, alpha = 100, 20, 0.1
    runs = methods(
        weighted_p_value,
        lambda scores, own, calibration, weights: conformal_p_value(scores, calibration.sort().values),
        "weighted_p_value",
    )
    found = empty(runs)
    for _ in range(1000):
        x, there = here_and_there(n, 2 * m, g)
        noise = torch.randn(n + 2 * m, generator=g).double() / 5
        scores, new = x + noise[:n], there + noise[n:] - 0.8 * (torch.arange(2 * m) >= m)
        for name, p_value in runs.items():
            refused = p_value(new, log_weight_of(there), scores, log_weight_of(x)) <= alpha
            found[name].values.append(float(refused[:m].double().mean()))
            found[name].power.append(float(refused[m:].double().mean()))
    return Measured(alpha, found)


def a_batch_from_elsewhere(g: torch.Generator) -> Measured:
    """Share of good inputs among those named in a batch from elsewhere; by Benjamini and Hochberg, without weights."""
    n, m, q = 300, 40, 0.2
    runs = methods(
        lambda *data, seed: weighted_discoveries(*data),
        lambda scores, own, calibration, weights, q, seed: discoveries(
            conformal_p_value(scores, calibration.sort().values), q
        ),
        "weighted_discoveries",
    )
    runs["gmm_torch", "at random"] = weighted_discoveries
    found = empty(runs)
    good = torch.arange(m) >= 4
    for seed in range(1000):
        x, there = here_and_there(n, m, g)
        noise = torch.randn(n + m, generator=g).double() / 5
        calibration, scores = x + noise[:n], there + noise[n:] - 1.5 * ~good
        for name, method in runs.items():
            named = method(scores, log_weight_of(there), calibration, log_weight_of(x), q, seed=seed)
            found[name].values.append(proportion(named, good))
            found[name].power.append(share(named, ~good))
    return Measured(q, found)


def unseen_elsewhere(g: torch.Generator) -> Measured:
    """Share wrong of the predictions selected where inputs come from elsewhere; without weights."""
    n, m, q = 200, 40, 0.1
    runs = methods(
        weighted_conformal_selection,
        lambda scores, own, calibration, weights, errors, q: conformal_selection(scores, calibration, errors, q),
    )
    found = empty(runs)
    for _ in range(1000):
        x, there = torch.rand(n, generator=g).double(), torch.rand(m, generator=g).double() ** (1 / 3)  # 3 x^2
        wrong, wrong_there = (torch.rand(len(each), generator=g) < 0.9 * (1 - each) for each in (x, there))
        for name, method in runs.items():
            out = method(there, 2 * there.log(), x, 2 * x.log(), wrong, q)
            found[name].values.append(proportion(out, wrong_there))
            found[name].power.append(share(out, ~wrong_there))
    return Measured(q, found)


class Promise(NamedTuple):
    """How it is measured, what the control does, and what the numbers in brackets are."""

    measure: Callable[[torch.Generator], Measured]
    control: str
    power: str


PROMISES: dict[str, Promise] = {
    "`Calibration`: a good input is refused": Promise(one_input, "rank among n alone", "failures refused"),
    "`ConditionalCalibration`: this set's rate exceeds some alpha": Promise(
        this_set, "plain p-values", "failures refused at 0.05"
    ),
    "`discoveries`: good among the named": Promise(
        a_batch("discoveries", False, 5), "p-values at most q", "failures named"
    ),
    "`discoveries`, `storey=True`: likewise": Promise(
        a_batch("storey", True, 20), "p-values at most q", "failures named"
    ),
    "`discovery_bounds`: some bound is exceeded": Promise(
        bounds_after_looking, "as if p-values were independent", "failures sure at p <= 0.1"
    ),
    "`conformal_selection`: wrong among the selected": Promise(unseen, "p-values above q", "right ones selected"),
    "`e_discoveries`, dependent p-values: something good is named": Promise(
        dependent, "Benjamini-Hochberg", "failures named, independent"
    ),
    '`OnlineDiscoveries("lond")`: good among the named': Promise(one_by_one, "p-values at most q", "failures named"),
    "`ExchangeabilityMartingale`: a clean stream has an alarm": Promise(
        a_stream(against_all, "stream"), "bets on p-values", "moved streams with one"
    ),
    '`ReferenceMartingale`, "average", without a memory that grows: likewise': Promise(
        a_stream(against_reference("average", 0.05)), "bets on p-values", "moved streams with one"
    ),
    '`ReferenceMartingale`, "set", given the reference: likewise': Promise(
        a_stream(against_reference("set", 0.05), delta=0.05), "bets on p-values", "moved streams with one"
    ),
    "`TimeWindows`: a clean window has an alarm": Promise(
        in_windows, "bets on p-values, anew in each", "moved windows with one"
    ),
    '`ShiftOrLoss`: "moved further" where inputs moved as the weights say': Promise(
        shift_or_loss("adapted_at"), "without weights", "streams that moved further"
    ),
    '`ShiftOrLoss`: "accuracy fell" where only inputs moved': Promise(
        shift_or_loss("outcomes_at"), "without weights", "streams whose accuracy fell"
    ),
    "`AdaptiveAlpha`, streams that turn about: its bound is exceeded": Promise(adversarial, "a fixed alpha", "–"),
    "`RiskMonitor`: a stream at its target has an alarm": Promise(
        errors_among_accepted, "a test at every tenth label", "streams 8 points worse"
    ),
    "`select_threshold`: a threshold's error rate exceeds its target": Promise(
        accepted_errors, "the lowest whose observed rate is the target", "inputs accepted"
    ),
    "`weighted_p_value`, another camera: a good input is refused": Promise(
        another_camera, "plain p-values", "failures refused"
    ),
    "`weighted_discoveries`, likewise: good among the named": Promise(
        a_batch_from_elsewhere, "Benjamini-Hochberg, plain", "failures named"
    ),
    "`weighted_conformal_selection`, likewise: wrong among the selected": Promise(
        unseen_elsewhere, "without weights", "right ones selected"
    ),
}


# (library, promise) -> why it is broken there; one that isn't understood is an error.
WHY = {
    ("MAPIE", "`AdaptiveAlpha`, streams that turn about: its bound is exceeded"): (
        "its adaptive conformal inference cuts alpha to [0, 1] after each step, and so forgets by how much it would "
        "fall below 0, which the proof of the bound needs"
    ),
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


def row_of(name: str, promise: Promise, measured: Measured) -> dict[str, Any]:
    """What the JSON holds of a promise."""
    found = [
        {
            "library": library,
            "words": words,
            "rate": sum(each.values) / len(each.values),
            "p": p_value(each.values, measured.bound),
            "power": sum(each.power) / len(each.power) if each.power else None,
        }
        for (library, words), each in measured.found.items()
    ]
    n = len(measured.found[OURS].values)
    return {
        "promise": name,
        "bound": measured.bound,
        "control": promise.control,
        "power": promise.power,
        "n": n,
        "found": found,
    }


def tests(rows: list[dict[str, Any]], of: Callable[[str], bool]) -> list[float]:
    """P-values of "the promise is kept" of some libraries."""
    return [each["p"] for row in rows for each in row["found"] if of(each["library"])]


def cell(row: Mapping[str, Any], library: str, level: float) -> str:
    """Rates of a library, in brackets what it found; an asterisk where the promise is broken."""
    parts = []
    for each in row["found"]:
        if each["library"] == library:
            words = f"{each['words']} " if each["words"] else ""
            star = "\\*" if each["p"] < level else ""
            power = "" if each["power"] is None else f" ({100 * each['power']:.0f})"
            parts.append(f"{words}{100 * each['rate']:.1f}{star}{power}")
    return "; ".join(parts) or "–"


def document(result: Mapping[str, Any]) -> str:
    """The table, and what it rests on."""
    rows = result["rows"]
    ours, control = (tests(rows, lambda library, name=name: library == name[0]) for name in (OURS, CONTROL))
    others = tests(rows, lambda library: library not in (OURS[0], CONTROL[0]))
    n, level = len(ours) + len(control), LEVEL / max(1, len(others))
    libraries = [*LIBRARIES]
    head = ["promise", "at most, %", "gmm_torch, %", *(f"{name}, %" for name in libraries), "control, %"]
    head += ["in brackets, %", "repetitions"]
    table = [
        [
            row["promise"],
            f"{100 * row['bound']:g}",
            cell(row, OURS[0], 0.0),
            *(cell(row, name, level) for name in libraries),
            f"{row['control']}: {cell(row, CONTROL[0], 0.0)}",
            row["power"],
            f"{row['n']:,}",
        ]
        for row in rows
    ]
    versions = ", ".join(f"{name} {each}" for name, each in result["versions"].items())
    broken = [
        f"{each['library']}: {WHY[each['library'], row['promise']]}"
        for row in rows
        for each in row["found"]
        if each["library"] in libraries and each["p"] < level
    ]
    words = (
        f"{n} tests at {LEVEL:g} / {n} each: no promise is broken, smallest p-value {min(ours):.2g}; every control "
        f"breaks it, largest p-value {max(control):.0e}. {len(others)} rates of other libraries, tested at {LEVEL:g} / "
        f"{len(others)} each; an asterisk: above. {' '.join(f'{each}.' for each in broken)} A dash: it offers nothing "
        f"of the kind. Simulated scores, seed {SEED}; python {result['python']}, {versions}."
    )
    return f"{pages.table(head, table)}\n\n{words}"


def main() -> int:
    """Run everything; see the first lines of the module."""
    torch.set_num_threads(1)
    quiet()
    rows = []
    for i, (name, promise) in enumerate(PROMISES.items()):
        rows.append(row_of(name, promise, promise.measure(torch.Generator().manual_seed(SEED + i))))
        print(rows[-1], flush=True)
    result = {
        "rows": rows,
        "python": platform.python_version(),
        "versions": {"torch": torch.__version__, **installed()},
    }
    pages.save(RESULTS, result)
    pages.fill(PAGE, "promises", document(result))
    ours, control = (tests(rows, lambda library, name=name: library == name[0]) for name in (OURS, CONTROL))
    level = LEVEL / (len(ours) + len(control))
    broken = [
        f"{row['promise']} ({each['library']})"
        for row in rows
        for each in row["found"]
        if (each["library"] == OURS[0] and each["p"] < level) or (each["library"] == CONTROL[0] and each["p"] >= level)
    ]
    for each in broken:
        print("broken:", each)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
