"""Does the error rate among accepted predictions exceed its target? From the labels that arrive, at any time."""

from typing import NamedTuple

import torch
from torch import Tensor

from gmm_torch.checks import check_probability
from gmm_torch.conformal.martingale import Capital, first_alarm, gamble, opening_capital
from gmm_torch.conformal.stream import Judged, Stream
from gmm_torch.evaluation.betting import rate_interval

BETS = (0.0, 0.03, 0.06, 0.125, 0.25, 0.5)  # shares of all that a right prediction may cost; 0 keeps some for later


def payoffs(wrong: Tensor, target: float) -> Tensor:
    """(..., N, B), of all bets on errors (..., N) bool; of mean 1 at most where the chance is the target at most."""
    stake = torch.tensor(BETS, dtype=torch.float64) / target
    return 1 + stake * (wrong[..., None].double() - target)


class RiskRecord(NamedTuple):
    """What is known of the error rate among accepted predictions.

    Attributes:
        alarm_at: how many labels of accepted inputs had come when the alarm was raised; None while there is none.
        log_capital: of the bets against "the rate is at most the target"; the alarm is at log(1 / delta).
        n_labelled, n_wrong: accepted inputs with a label, and how many of them are wrong.
        low, high: the rate has been above low at some time, and below high, with confidence 1 - delta in all.
    """

    alarm_at: int | None
    log_capital: float
    n_labelled: int
    n_wrong: int
    low: float
    high: float

    @property
    def alarm(self) -> bool:
        """Whether the rate has exceeded its target at some time."""
        return self.alarm_at is not None


class RiskMonitor(Stream):
    """Raises an alarm once labels show that accepted predictions are wrong more often than at the target rate.

    So long as each labelled prediction is wrong with a chance of at most the target, given the labels before it, the
    alarm is ever raised with probability at most delta, whenever and however often one looks: by betting on errors
    (Waudby-Smith, Ramdas 2023, "Estimating means of bounded random variables by betting"; for a model's risk Podkopaev,
    Ramdas 2022, "Tracking the risk of a deployed model and detecting harmful distribution shifts"). The bounds are of
    the same kind, at delta of their own.

    Which accepted inputs get a label must not depend on whether they are wrong: labels of complaints alone would alarm
    at any rate. Labels of inputs that were refused don't count.

    Args:
        target: error rate, in (0, 1).
        delta: chance of a false alarm, ever.
        jump: share of the capital that is divided anew before each label.
        memory: accepted and refused inputs to wait for labels of; see `Judged`.
    """

    settings = ("target", "delta", "jump")
    state = ("n_wrong", "n_right", "alarm_at", "low", "high", "log_capital", "shares", "judged")

    def __init__(self, target: float, delta: float = 0.05, jump: float = 0.01, memory: int = 100_000) -> None:
        for name, value in (("target", target), ("delta", delta), ("jump", jump)):
            check_probability(name, value)
        self.target, self.delta, self.jump = target, delta, jump
        self.n_wrong = self.n_right = 0
        self.alarm_at: int | None = None
        self.low, self.high = 0.0, 1.0
        self.log_capital, self.shares = opening_capital(n_bets=len(BETS))
        self.judged = Judged(memory)

    @property
    def record(self) -> RiskRecord:
        """What is known now."""
        n = self.n_wrong + self.n_right
        return RiskRecord(self.alarm_at, float(self.log_capital), n, self.n_wrong, self.low, self.high)

    def update(self, accepted: Tensor) -> RiskRecord:
        """Take down which inputs were accepted, (N,) bool, in the order of the stream; labels refer to these.

        Raises:
            ValueError: not bool.
        """
        if accepted.dim() != 1 or accepted.dtype != torch.bool:
            raise ValueError(f"accepted: expected bool (N,); got {tuple(accepted.shape)} of {accepted.dtype}")
        for each in accepted.tolist():
            self.judged.add(each)
        return self.record

    def label(self, indices: Tensor, right: Tensor) -> RiskRecord:
        """Learn whether predictions (k,) were right, bool, in the order in which that became known.

        Raises:
            ValueError: shapes; inputs that were never judged, that have a label, or that were judged too long ago.
        """
        wrong = [not each for accepted, each in self.judged.take(indices, right) if accepted]
        if not wrong:
            return self.record
        wager = gamble(payoffs(torch.tensor(wrong), self.target), Capital(self.log_capital, self.shares), self.jump)
        if self.alarm_at is None and (first := first_alarm(wager.log_path, 1 / self.delta)) is not None:
            self.alarm_at = self.n_wrong + self.n_right + first + 1
        self.log_capital, self.shares = wager.capital
        for each in wrong:
            self.n_wrong += each
            self.n_right += not each
            low, high = rate_interval(self.n_wrong, self.n_right, 1 - self.delta)
            self.low, self.high = max(self.low, low), min(self.high, high)
        return self.record

    def __repr__(self) -> str:
        known = self.record
        if not known.n_labelled:
            return f"RiskMonitor(target {self.target:g}: no label of an accepted input yet, promises nothing)"
        said = f"alarm at label {known.alarm_at}" if known.alarm else "no alarm"
        return (
            f"RiskMonitor(target {self.target:g}, {said}, false with probability {self.delta:g} at most; "
            f"{known.n_wrong} of {known.n_labelled} wrong, a rate from {known.low:.3g} to {known.high:.3g})"
        )
