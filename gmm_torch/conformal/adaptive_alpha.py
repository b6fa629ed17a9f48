"""An alpha that follows a stream, so that a rate of refusal or of errors comes true in the long run on any stream."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gmm_torch.checks import check_choice, check_p_values, check_probability
from gmm_torch.conformal.stream import Judged, Stream

CONTROLS = {
    "refused": "refused, of all",
    "refused_among_right": "refused, of the labelled predictions that are right",
    "wrong_among_accepted": "wrong, of the labelled predictions that were accepted",
}
LOCAL = 500  # outcomes over which several rates compete; what is longer ago is forgotten


class AdaptiveDecisions(NamedTuple):
    """What was decided on a piece of a stream.

    `alpha` is what each p-value was compared with and may leave [0, 1]; `first` the index in the stream, from 0, of the
    first of these inputs, since `label` asks for indices.
    """

    refused: Tensor  # (N,) bool
    alpha: Tensor  # (N,) float64
    first: int


class AdaptiveAlpha(Stream):
    """Adaptive conformal inference: after each outcome alpha moves a little towards the rate that is wanted.

    `controls` says which rate. Of T outcomes, S count against it:

    - "refused": S of all T inputs were refused. No label is needed. It says nothing of how many of them are good.
    - "refused_among_right": S of T labelled predictions that are right were refused: false alarms.
    - "wrong_among_accepted": S of T labelled predictions that were accepted are wrong.

    Refusals: alpha rises by rate * target with an input that is accepted, and falls by rate * (1 - target) with one
    that is refused. At alpha <= 0 nothing is refused and at alpha >= 1 everything, so |S / T - target| <= `bound`,
    about 1 / (rate T), for every stream, an adversary's too (Gibbs, Candes 2021, "Adaptive conformal inference under
    distribution shift", proposition 4.1). Where D other outcomes at most come between a decision and its own outcome,
    the bound is D / T larger.

    Errors: alpha rises by rate * (1 - target) with each and falls by rate * target with each right one, not below 0.
    Then S / T <= target + `bound`, one-sided, since a stream may have no errors to give. Where alpha has reached 1
    everything is refused and no label of an accepted input can come; `repr` says so, and one has to start anew.

    The rate is that of the labelled ones. It speaks of all where chance decides which get a label.

    With several rates, alpha is a mean of the levels of as many such learners, weighted by how well each has done of
    late in pinball loss (Gibbs, Candes 2024, "Conformal inference for arbitrary distribution shifts by online
    learning", algorithm 1). A correction, which moves with the smallest rate, is added, and keeps the long-run rate by
    the same argument as above.

    Args:
        target: the rate, in (0, 1).
        controls: which; see above.
        rates: how far alpha moves, each in (0, 1); several follow slow and abrupt changes alike.
        start: the first alpha, in (0, 1); `target` by default.
        memory: inputs to wait for labels of; see `Judged`.

    Raises:
        ValueError: arguments out of range; several rates for errors among accepted ones, where what another alpha would
            have done has no outcome.
    """

    settings = ("target", "controls", "rates", "start")
    state = ("levels", "weights", "correction", "n_outcomes", "n_against", "most_late", "judged")

    def __init__(
        self,
        target: float,
        controls: str = "refused",
        rates: Sequence[float] = (0.01,),
        start: float | None = None,
        memory: int = 100_000,
    ) -> None:
        check_probability("target", target)
        check_choice("controls", controls, CONTROLS)
        if not rates or not all(0 < rate < 1 for rate in rates):
            raise ValueError(f"rates: expected one or more numbers between 0 and 1; got {list(rates)}")
        if len(rates) > 1 and controls == "wrong_among_accepted":
            raise ValueError(f"rates: expected one for {controls!r}; got {list(rates)}: give the smallest")
        self.target, self.controls, self.rates = target, controls, list(rates)
        self.start = target if start is None else start
        check_probability("start", self.start)
        self.levels = [self.start] * len(self.rates)
        self.weights = [1 / len(self.rates)] * len(self.rates)
        self.correction = 0.0
        self.n_outcomes = self.n_against = 0
        self.most_late = 0  # D of the docstring
        self.judged = Judged(memory)

    @property
    def alpha(self) -> float:
        """What the next p-value will be compared with."""
        return sum(w * level for w, level in zip(self.weights, self.levels, strict=True)) + self.correction

    @property
    def rate(self) -> float:
        """S / T; NaN before the first outcome."""
        return self.n_against / self.n_outcomes if self.n_outcomes else math.nan

    @property
    def bound(self) -> float:
        """How far the rate is from its target at most, or above it for errors; infinite before the first outcome."""
        if not self.n_outcomes:
            return math.inf
        slowest = min(self.rates)
        if len(self.rates) > 1:
            reach = 1 + max(self.rates)
        else:
            reach = 1 - self.start if self.controls == "wrong_among_accepted" else max(self.start, 1 - self.start)
        return (reach / slowest + self.most_late + 1) / self.n_outcomes

    def update(self, p_values: Tensor) -> AdaptiveDecisions:
        """Refuse or accept inputs with p-values (N,), in the order of the stream."""
        if len(p_values):
            check_p_values(p_values)
        first, refused, alphas = self.judged.n_seen, [], []
        for p in p_values.detach().double().tolist():
            alpha = self.alpha
            refused.append(alpha >= 1 or (alpha > 0 and p <= alpha))
            alphas.append(alpha)
            self.judged.add((p, refused[-1], self.n_outcomes))
            if self.controls == "refused":
                self._learn(*self.judged.take_last())
        return AdaptiveDecisions(torch.tensor(refused).bool(), torch.tensor(alphas, dtype=torch.float64), first)

    def label(self, indices: Tensor, right: Tensor) -> None:
        """Learn which predictions (k,) were right, bool, in the order in which that became known.

        Raises:
            ValueError: shapes; inputs that were never judged, that have a label, or that were judged too long ago;
                where the share refused of all is controlled, which needs no labels.
        """
        if self.controls == "refused":
            raise ValueError(f"labels: expected none, the share {CONTROLS[self.controls]} needs none; set `controls`")
        for (p, refused, n_before), is_right in self.judged.take(indices, right):
            if self.controls == "wrong_among_accepted" and not refused:
                self._learn(p, not is_right, n_before)
            if self.controls == "refused_among_right" and is_right:
                self._learn(p, refused, n_before)

    def _learn(self, p: float, against: bool, n_before: int) -> None:
        self.most_late = max(self.most_late, self.n_outcomes - n_before)
        self.n_outcomes += 1
        self.n_against += against
        if self.controls == "wrong_among_accepted":
            step = self.rates[0] * (against - self.target)
            self.correction = max(-self.start, self.correction + step)  # alpha is not below 0
            return
        self.correction += min(self.rates) * (self.target - against)
        if len(self.rates) > 1:
            self._compete(p)

    def _compete(self, p: float) -> None:
        r, k = self.target, len(self.rates)
        eta = math.sqrt(3 / LOCAL * (math.log(LOCAL * k) + 2) / ((1 - r) ** 2 * r**3 + r**2 * (1 - r) ** 3))
        losses = [r * (p - level) - min(0.0, p - level) for level in self.levels]
        gained = [w * math.exp(-eta * (loss - min(losses))) for w, loss in zip(self.weights, losses, strict=True)]
        share = 1 / (2 * LOCAL)
        self.weights = [(1 - share) * gain / sum(gained) + share / k for gain in gained]
        self.levels = [
            level + rate * (r - (level >= 1 or (level > 0 and p <= level)))
            for level, rate in zip(self.levels, self.rates, strict=True)
        ]

    def __repr__(self) -> str:
        one_sided = self.controls == "wrong_among_accepted"
        if self.bound >= 1 - self.target:
            promise = f"{self.n_outcomes} outcomes so far, promises nothing yet"
        else:
            side = f"at most {self.bound:.2g} above" if one_sided else f"within {self.bound:.2g} of"
            promise = f"{self.rate:.3g} of {self.n_outcomes}, promised to be {side} it"
        stuck = ", refuses everything: start anew" if one_sided and self.alpha >= 1 else ""
        what = CONTROLS[self.controls]
        return f"AdaptiveAlpha({self.target:g} to be {what}; {promise}; alpha {self.alpha:.3g}{stuck})"
