"""Has a stream drifted from a fixed reference? Bets against it, whose memory does not grow."""

import hashlib
from typing import Literal, NamedTuple

import scipy
import torch
from torch import Tensor

from gmm_torch.checks import check_finite_scores, check_probability, check_scores
from gmm_torch.conformal.martingale import Capital, check_threshold, first_alarm, gamble, opening_capital
from gmm_torch.conformal.p_values import comparable, stream_uniforms
from gmm_torch.conformal.stream import Stream

LEVELS = (0.01, 0.05, 0.2, 0.5)  # shares of the reference at either end that the bets are on
STAKES = (0.1, 0.5)  # shares of the capital that a bet may lose
DRAWS_OF_REFERENCE = 2**32  # where the uniform sequence for the reference begins, beyond that of any stream

Promise = Literal["average", "set"]


class DriftRecord(NamedTuple):
    """The natural logarithm (N,) float64 of the capital after each input of a piece of a stream.

    `alarm_at` is the index in the stream, from 0, of the input at which the capital first reached the threshold.
    """

    log_capital: Tensor
    alarm_at: int | None

    @property
    def alarm(self) -> bool:
        """Whether there is one."""
        return self.alarm_at is not None


class ReferenceMartingale(Stream):
    """Capital of bets against "the stream comes from where the reference comes from"; on how often scores lie at its
    ends.

    Each bet is on the event that a score is below the k-th lowest reference score, or above the k-th highest, at odds
    that are fair or worse, so by Ville's inequality the capital ever reaches the threshold on clean data with
    probability at most 1 / threshold. P-values among a fixed reference are not independent: an unlucky reference makes
    all of them small, and bets on them as they are alarm far too often. There are two ways to be fair:

    - "average", over references and streams: the chance of the event is (k + N) / (n + 1 + t) after N such events among
      t inputs, exactly, because references and stream are exchangeable (Polya's urn; ties are broken by chance). The
      stream shows how lucky the reference was, so evidence of a shift that was there from the start has a limit,
      which grows with n.
    - "set", given the reference, for a share 1 - delta of references and independent inputs: the chance of the event is
      beta(k, n + 1 - k) over references; bets are at the upper bound of it at delta / (number of events). Evidence
      grows without limit, and a slow drift is not got used to; but a shift within these bounds is never found, and it
      takes a reference of a thousand to find as quickly as "average" does. In the spirit of Shaer, Bar, Prinster,
      Romano 2026, "Testing for distribution shifts with conditional conformal test martingales", arXiv:2602.13848.

    `ExchangeabilityMartingale` promises as "average" does; it keeps all scores, and looks at all ranks. Scores may be
    of inputs or of their labels, such as the probability of the true class.

    Args:
        reference: (n,) scores of reference inputs, finite, in any order.
        threshold: capital at which to raise the alarm.
        promise: see above.
        delta: of "set".
        jump: share of the capital that is divided anew before each input, see `martingale.bet`.
        seed: of the draws that break ties.

    Raises:
        ValueError: shapes, scores that are not finite, arguments out of range.
    """

    settings = ("fingerprint", "threshold", "promise", "delta", "jump", "seed")
    state = ("n_seen", "n_here", "alarm_at", "log_capital", "log_maximum", "shares", "counts")

    def __init__(
        self,
        reference: Tensor,
        threshold: float = 100.0,
        promise: Promise = "average",
        delta: float = 0.01,
        jump: float = 0.01,
        seed: int = 0,
    ) -> None:
        check_scores("reference scores", reference)
        check_finite_scores(reference)
        check_threshold(threshold)
        check_probability("delta", delta)
        check_probability("jump", jump)
        if promise not in ("average", "set"):
            raise ValueError(f"promise: expected 'average' or 'set'; got {promise!r}")
        self.threshold, self.promise, self.delta, self.jump, self.seed = threshold, promise, delta, jump, seed
        ordered = (reference.detach().cpu().double() + 0.0).sort().values  # no negative zero, which equals the other
        self.fingerprint = hashlib.sha256(ordered.numpy().tobytes()).hexdigest()
        self.n = n = len(ordered)
        self.values, block = ordered.unique(return_inverse=True)
        # ties are broken by draws: the whole number is the place among distinct values, the rest the draw
        places = (block + stream_uniforms(n, seed, DRAWS_OF_REFERENCE) / 2).sort().values
        self.k = torch.tensor([max(1, int(level * (n + 1))) for level in LEVELS])
        self.edges = torch.cat([places[self.k - 1], places[n - self.k]])
        bound = scipy.stats.beta.isf(delta / (2 * len(LEVELS)), self.k.numpy(), n + 1 - self.k.numpy())
        self.bounds = torch.from_numpy(bound).repeat(2)
        self.n_seen = 0
        self.restart()

    def restart(self) -> None:
        """Begin anew, with capital 1 and without what the stream has shown; the count of inputs goes on."""
        self.log_capital, self.shares = opening_capital(n_bets=1 + 2 * len(LEVELS) * len(STAKES))
        self.log_maximum = 0.0
        self.alarm_at: int | None = None
        self.n_here = 0
        self.counts = torch.zeros(2 * len(LEVELS), dtype=torch.int64)

    def update(self, scores: Tensor) -> DriftRecord:
        """Bet on scores (N,) of the stream, in its order; higher = more typical, NaN = the least typical of all."""
        if scores.dim() != 1:
            raise ValueError(f"scores: expected (N,); got {tuple(scores.shape)}")
        wager = gamble(self.payoffs(scores), Capital(self.log_capital, self.shares), self.jump)
        if self.alarm_at is None and (first := first_alarm(wager.log_path, self.threshold)) is not None:
            self.alarm_at = self.n_seen + first
        self.log_capital, self.shares = wager.capital
        self.log_maximum = max([self.log_maximum, *wager.log_path.tolist()])
        self.n_seen += len(scores)
        self.n_here += len(scores)
        return DriftRecord(wager.log_path, self.alarm_at)

    def payoffs(self, scores: Tensor) -> Tensor:
        """(N, B), of all bets; counts the events."""
        scores = comparable(scores).cpu().double()
        place = torch.searchsorted(self.values, scores)
        equal = self.values[place.clamp(max=len(self.values) - 1)] == scores
        draw = stream_uniforms(len(scores), self.seed, self.n_seen) / 2
        own = torch.where(equal, place + draw, place - 0.25)[:, None]
        low, high = self.edges.split(len(LEVELS))
        event = torch.cat([own < low, own > high], 1).long()  # (N, E)
        if self.promise == "set":
            chance = self.bounds
        else:
            before = self.counts + event.cumsum(0) - event
            t = self.n_here + torch.arange(len(scores))[:, None]
            chance = (self.k.repeat(2) + before).double() / (self.n + 1 + t)
        self.counts = self.counts + event.sum(0)
        gain = event / chance - 1
        cash = torch.ones(len(scores), 1, dtype=torch.float64)
        return torch.cat([cash, *(1 + stake * gain for stake in STAKES)], 1)

    def __repr__(self) -> str:
        said = "no alarm" if self.alarm_at is None else f"alarm at input {self.alarm_at + 1}"
        whom = "on average over reference sets" if self.promise == "average" else f"for {1 - self.delta:.4g} of them"
        return (
            f"ReferenceMartingale({self.n} reference inputs, {said} among {self.n_seen}, false with probability "
            f"{1 / self.threshold:.2g} at most, {whom})"
        )
