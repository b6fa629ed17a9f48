"""The default, for people who have labels of their calibration inputs."""

import math
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from gmm_torch.detection.hypothesis_tests import probability_of_superiority
from gmm_torch.detection.outputs import Outputs
from gmm_torch.detection.scores.agreement import Agreement
from gmm_torch.detection.scores.base import Score
from gmm_torch.detection.scores.consensus import Consensus
from gmm_torch.detection.scores.right_wrong_ratio import HALF, RightWrongRatio, wrong_predictions
from gmm_torch.functional.combination import COMBINATIONS
from gmm_torch.functional.log_odds import log_odds

SHARES = (1.0, 1 / 2, 1 / 4)  # with less, other failures lose much and errors gain nothing
TOLERANCE = 0.005  # of an area under the ROC curve


class LabelledConsensus(Consensus):
    """`Consensus` that has learned from labelled calibration inputs what tells right predictions from wrong ones.

    `FailureDetector(classifier, score=LabelledConsensus()).fit(loader).calibrate(labelled)`, with batches
    (x, label, ...) of images that the classifier was not trained on. Two things are learned, from the third of them
    that serves as reference, so that the p-values among the others stay valid:

    - `agreement` is replaced by the `RightWrongRatio` of the certainty of the views.
    - The other parts find other distributions and attacks, and cost wrong predictions. Their weights are halved until
      the area under the ROC curve for wrong predictions of the reference is at most half a point under that of the
      largest softmax probability, twice at most. With n wrong predictions, that factor has the exponent
      n / (n + 20).

    Args:
        n_components, covariance_type, weights, combination: those of `Consensus`; `agreement` is among the weights.
    """

    name = "labelled_consensus"
    needs_labels = True
    held_out_variables: Tensor  # (H, V + 2), of the ratio on fitting inputs that were held out
    log_shares: Tensor  # (J,), of the weights that the parts keep

    def __init__(
        self,
        n_components: int = 10,
        covariance_type: str = "full",
        weights: Mapping[str, float] | None = None,
        combination: str = "root_mean",
    ) -> None:
        if weights is not None and Agreement.name not in weights:
            raise ValueError(
                f"weights: expected {Agreement.name} among them, which labels improve; got {dict(weights)}"
            )
        super().__init__(n_components, covariance_type, weights, combination)
        self.register_buffer("held_out_variables", torch.empty(0, 3))
        self.register_buffer("log_shares", torch.zeros(len(self.weights)))

    def _make(self, name: str) -> Score:
        return RightWrongRatio() if name == Agreement.name else super()._make(name)

    @property
    def ratio(self) -> RightWrongRatio:
        """The part that takes the place of `agreement`."""
        part = self.parts[Agreement.name]
        assert isinstance(part, RightWrongRatio)
        return part

    def build(self, widths: dict[str, int], n_views: int, n_classes: int) -> Self:
        """See `Score`."""
        super().build(widths, n_views, n_classes)
        self.held_out_variables, self.log_shares = torch.empty(0, n_views + 2), torch.zeros(len(self.weights))
        return self

    def hold_out(self, outputs: Outputs) -> Self:
        """See `Score`."""
        self.held_out_variables = self.ratio.variables(outputs)
        return super().hold_out(outputs)

    def refer(self, outputs: Outputs) -> Self:
        """See `Score`; from `Outputs.labels`.

        Raises:
            ValueError: there are no labels, or some are no classes.

        Warns:
            LabelsWarning: nearly all predictions are right, or wrong: what is learned from labels is left out.
        """
        wrong = wrong_predictions(outputs)
        self.ratio.refer(outputs)
        j = list(self.weights).index(Agreement.name)
        self.held_out = self.held_out.index_copy(  # what the ratio was before says nothing of what it is now
            0, torch.tensor([j], device=self.held_out.device), self.ratio.of(self.held_out_variables)[None]
        )
        super().refer(outputs)
        certainty = log_odds(outputs.own_logits, outputs.own_logits.argmax(-1))
        log_share = self._log_share(self.log_p_values(outputs), certainty, wrong)
        self.log_shares = self._of_others(log_share)
        return self

    def _log_share(self, log_p: Tensor, certainty: Tensor, wrong: Tensor) -> float:
        """Logarithm of the largest of `SHARES` that keeps the area for wrong predictions; 0 where there is none."""
        n_wrong, n = int(wrong.sum()), len(wrong)
        if not 0 < n_wrong < n:
            return 0.0
        wanted = probability_of_superiority(certainty[~wrong], certainty[wrong]) - TOLERANCE
        for share in SHARES:
            score = self._combined(log_p, self._of_others(math.log(share)))
            if probability_of_superiority(score[~wrong], score[wrong]) >= wanted:
                break
        return math.log(share) * n_wrong / (n_wrong + HALF)

    def _of_others(self, log_share: float) -> Tensor:
        return self.log_weights.new_tensor([0.0 if name == Agreement.name else log_share for name in self.weights])

    def reserve(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """See `Score`."""
        super().reserve(shapes)
        shape = shapes.get("held_out_variables", ())
        if len(shape) == 2 and shape[1] == self.held_out_variables.shape[1]:
            self.held_out_variables = torch.zeros(shape)

    def combine(self, log_p: Tensor) -> Tensor:
        """See `Consensus`."""
        return self._combined(log_p, self.log_shares)

    def _combined(self, log_p: Tensor, log_shares: Tensor) -> Tensor:
        return COMBINATIONS[self.combination](log_p, (self.log_weights + log_shares).to(log_p))
