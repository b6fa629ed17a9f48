"""Evidence that a stream has drifted from the calibration set, as a torchmetrics Metric."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from gmm_torch.checks import check_scores
from gmm_torch.conformal.martingale import Capital, bet, check_threshold, first_alarm, online_p_values, opening_capital
from gmm_torch.conformal.p_values import stream_uniforms


class ExchangeabilityMartingale(Metric):
    """Log capital of a bet against "the stream is exchangeable with the calibration set"; see `conformal.martingale`.

    On clean data the capital ever reaches c with probability at most 1 / c, whenever and however often one looks:
    `alarm` is valid at any time. The order of updates is the order of the stream.

    With several processes an update takes the batches of all of them, in the order of their ranks: all hold the same
    stream, and all must update equally often.

    Args:
        calibration: (n,) scores of held-out inputs, in any order; empty for a stream that is its own reference.
        threshold: capital at which to raise the alarm; the chance of a false alarm is at most 1 / threshold.
        jump: share of the capital that is divided anew before each input, see `gmm_torch.conformal.martingale.bet`.
        seed: of the draws that break ties.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = True

    seen: Tensor
    log_capital: Tensor
    log_maximum: Tensor
    shares: Tensor
    n_seen: Tensor
    alarm_at: Tensor

    def __init__(
        self,
        calibration: Tensor | None = None,
        threshold: float = 100.0,
        jump: float = 0.01,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"sync_on_compute": False, **kwargs})
        check_threshold(threshold)
        reference = torch.empty(0) if calibration is None else calibration.detach()
        check_scores("calibration scores", reference, at_least=0)
        self.threshold = threshold
        self.jump = jump
        self.seed = seed
        opening = opening_capital()
        self.add_state("seen", reference.sort().values)
        self.add_state("log_capital", opening.log_capital)
        self.add_state("log_maximum", opening.log_capital.clone())
        self.add_state("shares", opening.shares)
        self.add_state("n_seen", torch.tensor(0))
        self.add_state("alarm_at", torch.tensor(-1))

    def update(self, scores: Tensor) -> None:
        """Bet on a batch (N,) of the stream, in its order; higher = more typical, NaN = the least typical."""
        if self.distributed_available_fn():
            scores = torch.cat(gather_all_tensors(scores.contiguous()))
        if len(scores) == 0:
            return
        scores = scores.to(self.seen.device)
        uniform = stream_uniforms(len(scores), self.seed, int(self.n_seen)).to(scores.device)
        ranked = online_p_values(scores, uniform, self.seen)
        wager = bet(ranked.p_value, Capital(self.log_capital, self.shares), self.jump)
        if not self.alarm and (first := first_alarm(wager.log_path, self.threshold)) is not None:
            self.alarm_at = self.n_seen + first
        self.seen = ranked.seen
        self.log_capital = wager.capital.log_capital.to(scores.device)
        self.shares = wager.capital.shares.to(scores.device)
        self.log_maximum = torch.maximum(self.log_maximum, wager.log_path.max())
        self.n_seen = self.n_seen + len(scores)

    def compute(self) -> Tensor:
        """Natural logarithm of the capital now, a float64 scalar; 0 before the first update."""
        return self.log_capital

    def forward(self, scores: Tensor) -> Tensor:
        """Update, and give the log capital of the whole stream: one batch alone has no meaning here."""
        self.update(scores)
        value = self.compute()
        self._forward_cache = value  # type: ignore[assignment]  # where Lightning's `self.log` looks
        return value

    @property
    def alarm(self) -> bool:
        """Whether the capital has ever reached the threshold."""
        return int(self.alarm_at) >= 0

    @property
    def alarm_index(self) -> int | None:
        """Place in the stream, from 0, of the input that raised the alarm."""
        return int(self.alarm_at) if self.alarm else None

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Raises: two streams have no common order, and so no common martingale."""
        raise NotImplementedError(
            "martingales of two streams can't be merged: update one metric with both, in the order of the inputs"
        )
