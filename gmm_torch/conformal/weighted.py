"""P-values for another camera: calibration inputs count as they would where the new inputs come from."""

import math
from typing import Self

from torch import Tensor

from gmm_torch.conformal.density_ratio import DensityRatio
from gmm_torch.conformal.weighted_scores import Sample, WeightedScores
from gmm_torch.errors import WeightsWarning, warn

MANY_CUT = 2 / 3  # of the deployment inputs: the ceiling, and not the shift, then sets most weights
UNSHIFTED = 0.05  # a p-value of "no shift" above it leaves nothing that weights would have to mend


class WeightedCalibration(WeightedScores):
    """Calibration inputs weighted by how much more likely they are at deployment, learnt from unlabelled inputs there.

    The weights are the density ratio of a score's statistics (see `Score.statistics`) among deployment and among
    reference inputs. For an input drawn as the deployment inputs were, P(p <= a) <= a + the total variation distance
    between their distribution and that which the weights stand for: 0 for exact weights that nothing was cut from
    (Tibshirani, Barber, Candes, Ramdas 2019, "Conformal prediction under covariate shift"; for estimated weights, Lei
    and Candes 2021, "Conformal inference of counterfactuals and individual treatment effects", theorem 3). The score is
    a function of the statistics, so nothing is assumed of the shift but that deployment inputs lie where calibration
    inputs do.

    Reference inputs come from where the calibration inputs come from, and are none of them. In a detector: `fit`,
    `adapt(deployment, reference)`, `calibrate`. Where good inputs from deployment are at hand, calibrate on these with
    `Calibration`: that is exact. Weights are for deployment inputs that may hold failures.

    Args:
        n_components, max_weight: see `DensityRatio`. At alpha it takes `max_weight` times the calibration inputs that
            `Calibration` needs.
    """

    name = "weighted"
    subject = "the deployment inputs"
    eased_by = "a larger alpha or a smaller max_weight, to which more weights are cut"

    def __init__(self, n_components: int = 3, max_weight: float = 5.0) -> None:
        super().__init__()
        self.ratio = DensityRatio(n_components, max_weight)
        self.n_components, self.max_weight = n_components, float(max_weight)

    @property
    def log_largest(self) -> Tensor:
        """See `WeightedScores`."""
        return self.ratio.centre.new_full((), math.log(self.max_weight))

    @property
    def is_adapted(self) -> bool:
        """See `WeightedScores`."""
        return self.ratio.fitted

    def adapt(self, reference: Sample, deployment: Sample) -> Self:
        """See `WeightedScores`; reads the statistics alone."""
        self.ratio.fit(reference[0], deployment[0])
        self.forget()
        if self._cuts_most:
            warn(
                f"weights: {float(self.ratio.clipped):.1%} of the deployment inputs were cut to max_weight="
                f"{self.max_weight:g}: most lie where calibration inputs hardly do, and good ones among them may be "
                "refused far more often than alpha: calibrate on good inputs from deployment, or choose a larger "
                "max_weight with more calibration inputs",
                WeightsWarning,
            )
        return self

    @property
    def _cuts_most(self) -> bool:
        return float(self.ratio.clipped) > MANY_CUT

    def log_weights(self, statistics: Tensor, predictions: Tensor, labels: Tensor | None = None) -> Tensor:
        """See `WeightedScores`; of the statistics (N, S)."""
        self._check_adapted()
        return self._cut(self.ratio(statistics))

    def extra_repr(self) -> str:
        """What can be promised."""
        if not self.is_adapted:
            return "no weights yet, promises nothing: adapt(deployment, reference)"
        p = float(self.ratio.p_of_no_shift)
        doubt = ", so many that the rate may be far above alpha: check it on good inputs" if self._cuts_most else ""
        found = (
            f"weights up to {self.max_weight:g}, to which {float(self.ratio.clipped):.1%} of the deployment inputs "
            f"were cut{doubt}; weights learnt by logistic regression would lay {float(self.ratio.disagreement):.0%} of "
            "their sum on other inputs"
        )
        plain = f"; no shift was found (p = {p:.2g}): try plain calibration first" if p > UNSHIFTED else ""
        return f"{found}{plain}; {self.in_words}"
