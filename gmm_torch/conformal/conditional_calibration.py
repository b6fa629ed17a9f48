"""P-values that hold for the calibration set at hand, not only on average over calibration sets."""

import torch
from torch import Tensor

from gmm_torch.checks import check_choice, check_probability
from gmm_torch.conformal.calibration import Calibration
from gmm_torch.conformal.calibration_conditional import BOUNDS, simultaneous_calibration_size
from gmm_torch.conformal.p_values import rank, refused
from gmm_torch.devices import widest


class ConditionalCalibration(Calibration):
    """Calibration whose p-values are raised so far that they hold given the calibration set.

    The guarantee, for independent inputs from where the calibration inputs come from: with probability >= 1 - delta
    over calibration sets, P(p <= a | the set) <= a for every a at once (Bates, Candes, Lei, Romano, Sesia 2023,
    "Testing for outliers with conformal p-values", section 3). Where only one alpha matters, fixed beforehand,
    `conformal.calibration_conditional.conditional_alpha` costs less.

    Args:
        delta: share of calibration sets for which it may fail, in (0, 1).
        method: "simes", tight for small p-values; "berk_jones", tight over a wider range; "dkw", for large sets and
            large p-values.
    """

    name = "conditional"
    eased_by = "a larger alpha or delta"
    bounds: Tensor

    def __init__(self, delta: float = 0.1, method: str = "berk_jones") -> None:
        super().__init__()
        check_probability("delta", delta)
        check_choice("method", method, BOUNDS)
        self.delta = delta
        self.method = method
        # They follow from the size of the set, the method and delta.
        self.register_buffer("bounds", torch.empty(0), persistent=False)  # (n + 1,) ascending

    @property
    def promise(self) -> str:
        """See `Calibration`."""
        sets = f"for at least {100 * (1 - self.delta):.4g} of 100 calibration sets"
        return f"of inputs like these at most a share alpha is refused, {sets}"

    def smallest(self, alpha: float) -> int:
        """See `Calibration`."""
        return simultaneous_calibration_size(alpha, self.delta, BOUNDS[self.method])

    def suffices(self, alpha: float, n: int) -> bool:
        """See `Calibration`; a look at one bound, where `smallest` is a search."""
        return n >= 1 and bool(refused(BOUNDS[self.method](n, self.delta)[0], alpha))

    def p_value(self, score: Tensor, predictions: Tensor | None = None, *, uniform: Tensor | None = None) -> Tensor:
        """(N,) p-values of scores (N,): the bound b_i of the conformal p-value i/(n + 1).

        Raises:
            ValueError: with `uniform`: the bounds are for p-values that are not randomised.
        """
        self._check_fitted()
        if uniform is not None:
            raise ValueError("uniform: expected None; bounds given the calibration set are not for randomised p-values")
        return self.bounds[rank(score, self.scores)]

    def accepts(self, score: Tensor, predictions: Tensor | None = None, *, alpha: float) -> Tensor:
        """See `Calibration`; by the bound of the rank."""
        return ~refused(self.p_value(score), alpha)

    def threshold(self, alpha: float) -> Tensor:
        """See `Calibration`."""
        self._check_fitted()
        k = self._below(alpha)
        return torch.where(k > 0, self.scores.gather(0, (k - 1).clamp_min(0)[None])[0], -torch.inf)

    def _n_refused(self, alpha: float) -> int:
        return int(self._below(alpha))

    def _below(self, alpha: float) -> Tensor:
        """`_n_refused` as a tensor (): reading it would wait for the device."""
        check_probability("alpha", alpha)
        return refused(self.bounds[:-1], alpha).sum()

    def _index(self) -> None:
        device = self.scores.device
        bounds = BOUNDS[self.method](len(self.scores), self.delta)
        narrow = bounds.to(widest(device))
        # a bound may be rounded up, never down
        up = torch.where(narrow.double() < bounds, narrow.nextafter(torch.ones_like(narrow)), narrow)
        self.bounds = up.to(device)
