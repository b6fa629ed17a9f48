"""Drift of a stream: bets against "nothing has changed", with a false alarm rate that holds at every time.

A gambler starts with capital 1 and multiplies it by f(p) for the p-value of each input, where f >= 0 has integral 1.
While inputs are exchangeable with the calibration set, the capital is a martingale, so by Ville's inequality

    P(the capital ever reaches c) <= 1 / c,

however long the stream and however often one looks (Vovk, Gammerman, Shafer 2005, "Algorithmic learning in a random
world", chapters 7 and 8). Bets gain from p-values that are small, large, or both.

`DriftMonitor` raises the alarms. `onset`, `component_changes` and `stretches` describe a change after an alarm.
"""

import math
import re
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import scipy
import torch
from torch import Tensor

from gmm_torch.checks import (
    check_choice,
    check_count,
    check_finite_scores,
    check_one_each,
    check_p_values,
    check_probability,
    check_scores,
)
from gmm_torch.conformal.p_values import comparable, refused, stream_uniforms
from gmm_torch.evaluation.hypothesis_tests import holm
from gmm_torch.evaluation.rates import interval

__all__ = [
    "ComponentChange",
    "DriftMonitor",
    "Stretch",
    "Wager",
    "Window",
    "bet",
    "component_changes",
    "gamble",
    "online_p_values",
    "onset",
    "stretches",
]

Against = Literal["stream", "reference"]
Promise = Literal["average", "set"]

_LINEAR = (-1.0, 0.0, 1.0)  # f(p) = 1 + e (p - 1/2): slow and safe, both directions (Vovk et al. 2021)
_POWER = (0.25, 0.5, 0.75)  # f(p) = k p^(k - 1): quick when p-values are tiny (Vovk, Gammerman, Shafer 2005)
_LEVELS = (0.01, 0.05, 0.2, 0.5)  # shares of the reference at either end that bets against it are on
_STAKES = (0.1, 0.5)  # shares of the capital that a bet against the reference may lose
_DRAWS_OF_REFERENCE = 2**32  # start of the reference's uniform draws, beyond those of any stream
_CHUNK = 256  # inputs at a time: comparisons within a chunk are quadratic; each chunk sorts all scores before it
_SURE = 0.05  # largest p-value at which a component counts as grown
_RARE = 0.05  # chance that `onset` takes the p-value of one of N clean inputs for a larger one
_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


class Window(NamedTuple):
    """A window of time.

    Attributes:
        start: in seconds; 0 if the whole stream is one window.
        n: number of inputs so far.
        alarm_at: index in the stream, from 0, of the input that raised the alarm; None without an alarm.
        log_maximum: highest natural logarithm of the capital.
    """

    start: float
    n: int = 0
    alarm_at: int | None = None
    log_maximum: float = 0.0


class DriftMonitor:
    """Bets against "the scores come from where the calibration scores come from" and raises alarms.

    A clean stream ever raises an alarm with probability at most 1 / threshold. The result does not depend on how the
    stream is cut into batches. A monitor can be pickled and resumed.

    Against "stream", each input is ranked among the calibration scores and all inputs before it. This looks at all
    ranks and keeps all scores.

    Against "reference", each bet is on the event that a score lies below the k-th lowest calibration score, or above
    the k-th highest. Memory does not grow. P-values among a fixed reference are not independent: an unlucky reference
    makes all of them small, and bets on them as they are would alarm far too often. Two promises keep the odds fair:

    - "average", over references and streams: after N events among t inputs the chance of the next one is
      (k + N) / (n + 1 + t), exactly, since reference and stream are exchangeable (Polya's urn; ties are broken at
      random). The stream reveals how lucky the reference was, so evidence of a shift that was there from the start is
      limited; the limit grows with n.
    - "set", given the reference, for a share 1 - delta of references and independent inputs: the chance of the event is
      beta(k, n + 1 - k) distributed over references, and bets use its upper bound at delta / (number of events).
      Evidence grows without limit and the monitor does not get used to a slow drift, but a shift within these bounds is
      never found, and it takes a reference of a thousand to be as quick as "average". In the spirit of Shaer, Bar,
      Prinster, Romano 2026, "Testing for distribution shifts with conditional conformal test martingales",
      arXiv:2602.13848.

    With `seconds`, the bet starts again in each window of time, from k * seconds to (k + 1) * seconds, and each window
    has a false alarm with probability at most 1 / threshold: hourly windows and a threshold of 10,000 give less than
    one false alarm a year on average. With "average", windows share their reference: an unlucky one gives more windows
    an alarm. Only a monitor of the whole stream finds a drift that is slow compared with a window.

    Args:
        calibration: (n,) calibration scores, finite, in any order; may be empty against "stream".
        threshold: capital at which to raise the alarm.
        against: see above.
        promise, delta: see above, against "reference".
        seconds: length of a window, a number or such as "30s", "15min", "1h", "7d", against "reference"; None for the
            whole stream.
        keep: number of windows to remember, the current one included. Windows without inputs do not count.
        jump: share of the capital that is divided equally among all bets before each input, see `bet`.
        seed: of the draws that break ties.

    Attributes:
        n_seen: number of inputs so far.
        windows: the latest windows, the current one last.

    Raises:
        ValueError: an argument is out of range, or scores are not finite.
    """

    def __init__(
        self,
        calibration: Tensor,
        threshold: float = 100.0,
        *,
        against: Against = "stream",
        promise: Promise = "average",
        delta: float = 0.01,
        seconds: str | float | None = None,
        keep: int = 1000,
        jump: float = 0.01,
        seed: int = 0,
    ) -> None:
        if not threshold > 1:
            raise ValueError(
                f"threshold: expected a capital above 1; got {threshold}: the chance of a false alarm is 1 / threshold,"
                " so use 100 for 1 %"
            )
        check_choice("against", against, get_args(Against))
        check_choice("promise", promise, get_args(Promise))
        check_probability("delta", delta)
        check_probability("jump", jump)
        check_count("keep", keep)
        if seconds is not None and against == "stream":
            raise ValueError(f"seconds: expected None against the stream; got {seconds}: set against='reference'")
        self.threshold, self.against, self.promise = threshold, against, promise
        self.seconds, self.keep, self.jump = _seconds_of(seconds), keep, jump
        self._bets = (
            _StreamBets(calibration, seed)
            if against == "stream"
            else _ReferenceBets(calibration, seed, delta if promise == "set" else None)
        )
        self._wager: Wager | None = None
        self._time = -math.inf  # of the latest input
        self.n_seen = 0
        self.windows: list[Window] = []

    @property
    def log_capital(self) -> float:
        """Natural logarithm of the capital in the current window."""
        return 0.0 if self._wager is None else float(self._wager.log_capital)

    @property
    def alarm_at(self) -> int | None:
        """Index in the stream of the input that raised the alarm in the current window; None without an alarm."""
        return self.windows[-1].alarm_at if self.windows else None

    @property
    def alarm_in_words(self) -> str:
        """Meaning of an alarm."""
        ever = "ever does so" if self.seconds is None else f"does so in a window of {self.seconds:g} s"
        return (
            f"the bet against the calibration inputs reached {self.threshold:g} times its stake; on inputs like them "
            f"it {ever} with probability at most {1 / self.threshold:.2g}"
        )

    @torch.inference_mode(False)
    def update(self, scores: Tensor, times: Tensor | None = None) -> list[int]:
        """Bet on the next scores of the stream.

        Args:
            scores: (N,), in the order of arrival; higher = more typical, NaN = the least typical of all.
            times: (N,) seconds of one clock, for windows.

        Returns:
            Indices in the stream of the inputs that raised an alarm: at most one in each window.

        Raises:
            ValueError: shapes; times that are missing, not finite or descending. The monitor has not changed then.
        """
        if scores.dim() != 1:
            raise ValueError(f"scores: expected (N,); got {tuple(scores.shape)}")
        if len(scores) == 0:
            return []
        if self.seconds is None:
            return self._update_window(scores, 0.0)
        if times is None:
            raise ValueError("times: expected one per score, since seconds is set; got none")
        check_one_each("times", "score", scores, times, do="give seconds")
        clock = times.detach().cpu().double()
        if not bool(clock.isfinite().all()):
            raise ValueError("times: expected finite numbers; got NaN or infinity: give seconds")
        for before, after in pairwise([self._time, *clock.tolist()]):
            if after < before:
                raise ValueError(
                    f"times: expected none earlier than the one before; got {after:.6f} after {before:.6f}: give "
                    "inputs in the order of arrival, with times of one clock"
                )
        self._time = float(clock[-1])
        starts = (clock / self.seconds).floor() * self.seconds
        pieces = [(start, (starts == start).to(scores.device)) for start in starts.unique_consecutive()]
        return [alarm for start, inside in pieces for alarm in self._update_window(scores[inside], float(start))]

    def window_at(self, time: float) -> Window:
        """The window of a time that is not before the latest input; it may have no inputs yet."""
        start = 0.0 if self.seconds is None else math.floor(time / self.seconds) * self.seconds
        return self.windows[-1] if self.windows and self.windows[-1].start == start else Window(start)

    def _update_window(self, scores: Tensor, start: float) -> list[int]:
        if not self.windows or self.windows[-1].start != start:
            self._bets.restart()
            self._wager = None
            self.windows = [*self.windows, Window(start)][-self.keep :]
        window = self.windows[-1]
        self._wager = gamble(self._bets.payoffs(scores, self.n_seen), self._wager, self.jump)
        path = self._wager.log_path
        reached = (path >= math.log(self.threshold)).nonzero()[:1, 0].tolist() if window.alarm_at is None else []
        alarms = [self.n_seen + i for i in reached]
        highest = max(window.log_maximum, float(path.max()))
        self.windows[-1] = Window(start, window.n + len(scores), alarms[0] if alarms else window.alarm_at, highest)
        self.n_seen += len(scores)
        return alarms


class _StreamBets:
    """Bets on p-values among the calibration scores and the stream so far."""

    def __init__(self, calibration: Tensor, seed: int) -> None:
        check_scores("calibration scores", calibration, at_least=0)
        self.seed, self.seen = seed, calibration.detach().cpu().sort().values

    def restart(self) -> None:
        """Nothing to do: there are no windows against the stream."""

    def payoffs(self, scores: Tensor, start: int) -> Tensor:
        """(N, B) payoffs of inputs start, start + 1, ... of the stream."""
        uniform = stream_uniforms(len(scores), self.seed, start)
        p_values, self.seen = online_p_values(scores.cpu(), uniform, self.seen)
        return _payoffs(p_values)


class _ReferenceBets:
    """Bets on how often scores lie at either end of the reference; `delta` for "set", None for "average"."""

    def __init__(self, reference: Tensor, seed: int, delta: float | None) -> None:
        check_scores("calibration scores", reference)
        check_finite_scores(reference)
        ordered = (reference.detach().cpu().double() + 0.0).sort().values  # turns -0.0 into the 0.0 that it equals
        self.seed, self.n = seed, len(ordered)
        self.values, block = ordered.unique(return_inverse=True)
        # Draws break ties: the integer part is the place among distinct values, the fraction is the draw.
        places = (block + stream_uniforms(self.n, seed, _DRAWS_OF_REFERENCE) / 2).sort().values
        k = torch.tensor([max(1, int(level * (self.n + 1))) for level in _LEVELS])
        self.k, self.low, self.high = k.repeat(2), places[k - 1], places[self.n - k]
        self.bounds: Tensor | None = None
        if delta is not None:
            bounds = scipy.stats.beta.isf(delta / (2 * len(_LEVELS)), k.numpy(), self.n + 1 - k.numpy())
            self.bounds = torch.from_numpy(bounds).repeat(2)
        self.restart()

    def restart(self) -> None:
        """Forget what the stream has shown."""
        self.t, self.counts = 0, torch.zeros(2 * len(_LEVELS), dtype=torch.int64)

    def payoffs(self, scores: Tensor, start: int) -> Tensor:
        """(N, B) payoffs of inputs start, start + 1, ... of the stream; counts the events."""
        scores = comparable(scores).cpu().double()
        place = torch.searchsorted(self.values, scores)
        equal = self.values[place.clamp(max=len(self.values) - 1)] == scores
        draw = stream_uniforms(len(scores), self.seed, start) / 2
        own = torch.where(equal, place + draw, place - 0.25)[:, None]
        event = torch.cat([own < self.low, own > self.high], 1).long()  # (N, E)
        if self.bounds is not None:
            chance = self.bounds
        else:
            before = self.counts + event.cumsum(0) - event
            t = self.t + torch.arange(len(scores))[:, None]
            chance = (self.k + before).double() / (self.n + 1 + t)
        self.counts, self.t = self.counts + event.sum(0), self.t + len(scores)
        gain = event / chance - 1
        cash = torch.ones(len(scores), 1, dtype=torch.float64)
        return torch.cat([cash, *(1 + stake * gain for stake in _STAKES)], 1)


def online_p_values(scores: Tensor, uniform: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """p_t = (#{earlier < s_t} + u_t (1 + #{earlier = s_t})) / (number of earlier ones + 1), for t = 1 ... N.

    While calibration scores and stream are exchangeable, these are independent and uniform, exactly.

    Args:
        scores: (..., N), in the order of the stream, higher = more typical; NaN counts as the least typical.
        uniform: (..., N), independent draws from (0, 1].
        seen: (..., n), ascending: the calibration scores and the stream so far.

    Returns:
        P-values (..., N) float64, and `seen` (..., n + N) with these scores, ascending.
    """
    scores = comparable(scores).to(seen.dtype)
    parts = []
    for piece, draws in zip(scores.split(_CHUNK, -1), uniform.split(_CHUNK, -1), strict=True):
        length = piece.shape[-1]
        below = torch.searchsorted(seen, piece.contiguous())
        equal = torch.searchsorted(seen, piece.contiguous(), right=True) - below
        mine, other = piece[..., :, None], piece[..., None, :]
        below = below + (other < mine).tril(-1).sum(-1)
        equal = equal + (other == mine).tril(-1).sum(-1)
        size = seen.shape[-1] + 1 + torch.arange(length, device=seen.device)
        parts.append((below + draws.double() * (1 + equal)) / size)
        seen = torch.cat([seen, piece], -1).sort(-1).values
    return torch.cat(parts, -1), seen


class Wager(NamedTuple):
    """Result of betting on a piece of a stream; all on the CPU.

    Attributes:
        log_path: (..., N) float64, natural logarithm of the capital after each input.
        log_capital: (...) float64, the same at the end.
        shares: (..., B) float64, shares of the capital in each bet; their sum is one.
    """

    log_path: Tensor
    log_capital: Tensor
    shares: Tensor


def bet(p_values: Tensor, before: Wager | None = None, jump: float = 0.01) -> Wager:
    """Bet on p-values (..., N) that are independent and uniform under the hypothesis, as from `online_p_values`.

    The gambler is the simple jumper of Vovk, Petej, Nouretdinov, Ahlberg, Carlsson, Gammerman 2021, "Retrain or not
    retrain: conformal test martingales for change-point detection", algorithm 1. Before each p-value a share `jump` of
    the capital is divided equally among all bets, so that the gambler follows a change late in the stream; then the
    part in each bet is multiplied by its f(p). `before` is the wager on the piece before; None for capital 1.
    """
    return gamble(_payoffs(p_values.detach().cpu().double()), before, jump)


def gamble(payoffs: Tensor, before: Wager | None = None, jump: float = 0.01) -> Wager:
    """Bet like `bet`, given payoffs (..., N, B) of mean at most 1, on the CPU."""
    check_probability("jump", jump)
    shape, n_bets = payoffs.shape[:-2], payoffs.shape[-1]
    log_capital = torch.zeros(shape, dtype=torch.float64) if before is None else before.log_capital
    shares = torch.full((*shape, n_bets), 1 / n_bets).double() if before is None else before.shares
    steps, moved = [log_capital[..., None]], jump / n_bets
    for piece in payoffs.split(_CHUNK, -2):
        gains = []
        for payoff in piece.unbind(-2):
            shares = ((1 - jump) * shares).add_(moved).mul_(payoff)
            gains.append(shares.sum(-1, keepdim=True))
            shares.div_(gains[-1])
        steps.append(torch.cat(gains, -1).log())
    path = torch.cat(steps, -1).cumsum(-1)
    return Wager(path[..., 1:], path[..., -1].clone(), shares)


def _payoffs(p: Tensor) -> Tensor:
    """f(p) of each bet, (..., N, B)."""
    linear = torch.tensor(_LINEAR, dtype=p.dtype)
    power = torch.tensor(_POWER, dtype=p.dtype)
    p = p[..., None].clamp(min=1e-300)  # keeps bets finite; a smaller payoff is on the safe side
    return torch.cat([1 + linear * (p - 0.5), power * p ** (power - 1)], -1)


def _seconds_of(length: str | float | None) -> float | None:
    """Seconds of a number of seconds, or of "30s", "15min", "1h", "7d"; None stays None."""
    if length is None:
        return None
    found = re.fullmatch(r"(\d+\.?\d*(?:e[+-]?\d+)?)\s*(s|min|h|d)?", str(length).strip())
    seconds = float(found[1]) * _UNITS[found[2] or "s"] if found else math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(
            f'seconds: expected a length of time above 0, such as 90, "15min", "1h" or "7d"; got {length!r}'
        )
    return seconds


class ComponentChange(NamedTuple):
    """Share of inputs that a mixture component explains best, before and now.

    Attributes:
        share_before, share_now: of reference inputs, and of inputs now.
        low, high: 95 % interval of the share now.
        p_value: of "the share has not grown": Fisher's exact test, one-sided, Holm-corrected for all components.
        examples: indices of its least typical inputs now, the lowest p-value first.
    """

    component: int
    share_before: float
    share_now: float
    low: float
    high: float
    p_value: float
    examples: tuple[int, ...]

    @property
    def has_grown(self) -> bool:
        """True if the share grew by more than chance explains."""
        return self.p_value <= _SURE


class Stretch(NamedTuple):
    """P-values of n consecutive inputs, the first at index `start`: the share refused at alpha, and three deciles.

    On clean inputs the deciles are 0.1, 0.5 and 0.9.
    """

    start: int
    n: int
    refused: float
    low: float
    median: float
    high: float


def onset(p_values: Tensor) -> int:
    """Estimate the index at which p-values (N,), which end with an alarm, stopped looking clean.

    It is the start from which one of the bets of `bet` that gain by small numbers gains most: the most likely change
    point if later p-values have the density of that bet (Page 1954). There is no guarantee.

    Small p-values count as at least 0.05 / N, so that no single input decides. Large ones count by how few of the N are
    as large, since clean p-values may be large from the start: they have ties at 1, and bounds are 1 for many ranks.

    Raises:
        ValueError: no p-values, or some outside [0, 1].
    """
    check_p_values(p_values)
    p = p_values.detach().cpu().double()
    as_large = (len(p) - torch.searchsorted(p.sort().values, p)) / len(p)
    at_0, at_1 = _payoffs(torch.tensor([0.0, 1.0], dtype=torch.float64))
    payoffs = _payoffs(torch.stack([p.clamp_min(_RARE / len(p)), as_large], 1))[..., at_0 >= at_1]
    gains = payoffs.flatten(1).log().flip(0).cumsum(0).flip(0)  # (N, B), from each input on
    best = gains.max(0)
    return int(best.indices[best.values.argmax()])


def component_changes(
    reference: Tensor, components: Tensor, p_values: Tensor, *, start: int = 0, n_examples: int = 5
) -> tuple[ComponentChange, ...]:
    """Components that explain a larger share of inputs now than of reference inputs, the clearest growth first.

    This is a description: the alarm said where to look, so a small p-value here is no second proof.

    Args:
        reference: (n,) int64, components of reference inputs, which the mixture was not fitted to.
        components, p_values: (m,) int64, and (m,), of the inputs around the alarm, in their order.
        start: index in the stream of the first of these; examples are indices in the stream.
        n_examples: for each component.

    Raises:
        ValueError: shapes, negative components, p-values outside [0, 1].
    """
    check_p_values(p_values)
    check_one_each("components", "p-value", p_values, components)
    before, now, p = reference.cpu(), components.cpu(), p_values.detach().cpu()
    n_components = 1 + max(int(before.max()), int(now.max()))
    old, new = (torch.bincount(each, minlength=n_components).tolist() for each in (before, now))
    raw = [
        float(scipy.stats.fisher_exact([[b, len(now) - b], [a, len(before) - a]], alternative="greater").pvalue)
        for a, b in zip(old, new, strict=True)
    ]
    corrected = holm(raw)
    changes = []
    for c in sorted(range(n_components), key=raw.__getitem__):
        if new[c] / len(now) > old[c] / len(before):
            own = (now == c).nonzero()[:, 0]
            examples = own[p[own].argsort(stable=True)[:n_examples]] + start
            shares = old[c] / len(before), new[c] / len(now)
            changes.append(
                ComponentChange(c, *shares, *interval(new[c], len(now)), corrected[c], tuple(examples.tolist()))
            )
    return tuple(changes)


def stretches(p_values: Tensor, *, alpha: float = 0.05, n_stretches: int = 20) -> tuple[Stretch, ...]:
    """Summarise p-values (m,) over time, in at most `n_stretches` stretches of equal length but for the last."""
    check_p_values(p_values)
    check_count("n_stretches", n_stretches)
    p = p_values.detach().cpu()
    length = -(-len(p) // n_stretches)
    found = []
    for i, piece in enumerate(p.split(length)):
        share = float(refused(piece, alpha).double().mean())
        deciles = piece.double().quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()
        found.append(Stretch(i * length, len(piece), share, *deciles))
    return tuple(found)
