"""Have the inputs moved, or has accuracy fallen by more than their moving explains?"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gmm_torch.conformal.reference_martingale import Promise, ReferenceMartingale
from gmm_torch.conformal.stream import Judged, Stream
from gmm_torch.conformal.thinning import thinned

MIN_INPUTS = 20  # of the weighted reference

Finding = Literal["nothing", "inputs moved", "inputs moved further", "accuracy fell"]
WORDS: dict[Finding, str] = {
    "nothing": "no change seen",
    "inputs moved": "inputs moved, as the weights say; no loss of accuracy seen beyond what that explains",
    "inputs moved further": "inputs moved further than the weights say: adapt anew before accuracy is judged",
    "accuracy fell": "accuracy fell by more than the moving of the inputs explains",
}


class ShiftRecord(NamedTuple):
    """What three bets say together; `WORDS` has the findings.

    Attributes:
        inputs_at: index of the input that raised the alarm "these come from elsewhere", or None.
        adapted_at: of the input that raised "these come from elsewhere than the weights say", or None.
        outcomes_at: of the input whose label raised "outcomes are worse or better than the weights explain", or None.
    """

    finding: Finding
    inputs_at: int | None
    adapted_at: int | None
    outcomes_at: int | None

    @property
    def alarm(self) -> bool:
        """Whether anything was found."""
        return self.finding != "nothing"


class ShiftOrLoss(Stream):
    """Tells a shift of inputs from a loss of accuracy, by three bets; two of them have a weighted reference.

    Reference inputs have labels. With the density ratio w = dQ/dP of deployment and reference inputs, those kept by
    `thinned` are as good as drawn from Q; so are their outcomes, where it is only the inputs that moved (covariate
    shift). Each of these is raised falsely with probability at most 1 / threshold, as `ReferenceMartingale` promises:

    - `inputs`: scores against the whole reference. Alarms where inputs moved at all.
    - `adapted`: scores against the kept ones. Alarms where they moved otherwise than the weights say.
    - `outcomes`: the labels' outcomes against those of the kept ones. Alarms where P(outcome | input) changed too.

    With weights of another Q', "falsely" means: where inputs don't come from Q'. After Prinster, Han, Liu, Saria 2025,
    "WATCH: adaptive monitoring for AI deployments via weighted-conformal martingales", arXiv:2505.04608, whose
    martingales weigh ranks; with a thinned reference the weights enter exactly, at the price of a smaller one. Which
    inputs get labels must not depend on their outcomes.

    Args:
        scores: (n,) of reference inputs, higher = more typical; they took part in no fitting.
        outcomes: (n,) of the same, higher = better: the probability of the true class, or 1 where right and 0 else.
        log_weights, max_weight: see `thinned`; zeros and 1 where nothing has moved yet.
        threshold, promise, delta, jump, seed: of each bet; see `ReferenceMartingale`.
        memory: inputs to wait for labels of; see `Judged`.

    Raises:
        ValueError: shapes; weights that leave fewer than 20 reference inputs.
    """

    settings = ()
    state = ("inputs", "adapted", "outcomes", "labelled_at", "judged")

    def __init__(
        self,
        scores: Tensor,
        outcomes: Tensor,
        log_weights: Tensor,
        max_weight: float,
        threshold: float = 100.0,
        promise: Promise = "average",
        delta: float = 0.01,
        jump: float = 0.01,
        seed: int = 0,
        memory: int = 100_000,
    ) -> None:
        if not scores.shape == outcomes.shape == log_weights.shape:
            raise ValueError(
                f"outcomes and log-weights: expected one of each per score, shape {tuple(scores.shape)}; got "
                f"{tuple(outcomes.shape)} and {tuple(log_weights.shape)}"
            )
        keep = thinned(log_weights, max_weight, seed)
        if int(keep.sum()) < MIN_INPUTS:
            raise ValueError(
                f"weights: expected such that at least {MIN_INPUTS} of {len(keep)} reference inputs are kept; got "
                f"{int(keep.sum())}: give more reference inputs, or such as lie where the deployment inputs do"
            )
        self.inputs, self.adapted, self.outcomes = (
            ReferenceMartingale(each, threshold, promise, delta, jump, seed)
            for each in (scores, scores[keep], outcomes[keep])
        )
        self.labelled_at: int | None = None
        self.judged = Judged(memory)

    @property
    def record(self) -> ShiftRecord:
        """What is known now."""
        finding: Finding = "nothing"
        if self.adapted.alarm_at is not None:
            finding = "inputs moved further"
        elif self.labelled_at is not None:
            finding = "accuracy fell"
        elif self.inputs.alarm_at is not None:
            finding = "inputs moved"
        return ShiftRecord(finding, self.inputs.alarm_at, self.adapted.alarm_at, self.labelled_at)

    def update(self, scores: Tensor) -> ShiftRecord:
        """Bet on scores (N,) of the stream, in its order."""
        self.inputs.update(scores)
        self.adapted.update(scores)
        for _ in range(len(scores)):
            self.judged.add(None)
        return self.record

    def label(self, indices: Tensor, outcomes: Tensor) -> ShiftRecord:
        """Bet on the outcomes (k,) of inputs whose labels arrived, in the order in which they did.

        Raises:
            ValueError: shapes; inputs that were never judged, that have a label, or that were judged too long ago.
        """
        found = self.judged.take(indices, outcomes, numbers=True)
        before = self.outcomes.n_seen
        alarm = self.outcomes.update(torch.tensor([value for _, value in found], dtype=torch.float64)).alarm_at
        if alarm is not None and self.labelled_at is None:
            self.labelled_at = int(indices[alarm - before])
        return self.record

    def __repr__(self) -> str:
        return (
            f"ShiftOrLoss({WORDS[self.record.finding]}; {self.inputs.n_seen} inputs, {self.outcomes.n_seen} labels"
            f"{', says nothing of accuracy yet' if not self.outcomes.n_seen else ''}; each alarm false with "
            f"probability {1 / self.inputs.threshold:.2g} at most; {self.adapted.n} of {self.inputs.n} reference "
            "inputs kept by weight)"
        )
