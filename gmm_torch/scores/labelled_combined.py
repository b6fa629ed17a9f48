"""The default score, improved by labels of the calibration inputs."""

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from gmm_torch.features.features import Features
from gmm_torch.scores.base import Score
from gmm_torch.scores.combined import Combined
from gmm_torch.scores.mean_log_probability import MeanLogProbability
from gmm_torch.scores.right_wrong_ratio import HALF, RightWrongRatio


class LabelledCombined(Combined):
    """`Combined` that learns from labelled calibration inputs to tell right predictions from wrong ones.

    `FailureDetector(classifier, score=LabelledCombined()).fit(loader).calibrate(labelled)`, with batches
    (x, label, ...) of images that the classifier was not trained on. Two things are learned, from the third of them
    that is the reference, so that the p-values among the others stay valid:

    - `mean_log_probability` is replaced by the `RightWrongRatio` of the certainty of the views.
    - What the other parts cost in finding wrong predictions is known from n wrong ones with a share n / (n + 20); the
      rest is still what the classifier's probabilities let expect.

    Args: those of `Combined`; `mean_log_probability` is among the weights.
    """

    name = "labelled_combined"
    needs_labels_to_calibrate = True

    def _take(self, weights: Mapping[str, float]) -> None:
        if MeanLogProbability.name not in weights:
            raise ValueError(
                f"weights: expected {MeanLogProbability.name} among them, which labels improve; got {dict(weights)}"
            )
        super()._take(weights)

    def _make(self, name: str) -> Score:
        return RightWrongRatio() if name == MeanLogProbability.name else super()._make(name)

    @property
    def ratio(self) -> RightWrongRatio:
        """The part that takes the place of `mean_log_probability`."""
        return self.parts[MeanLogProbability.name]  # type: ignore[return-value]

    def n_statistics(self, n_views: int) -> int:
        return super().n_statistics(n_views) + n_views + 2

    def set_reference(self, statistics: Tensor, wrong: Tensor | None = None) -> Self:
        """See `Score`, and `RightWrongRatio` for the error and the warning."""
        self.ratio.set_reference(statistics[:, len(self.weights) :], wrong)
        return super().set_reference(statistics, wrong)

    def statistics(self, outputs: Features) -> Tensor:
        """See `Score`; the scores of the parts and the variables of the ratio."""
        of_ratio = self.ratio.statistics(outputs)
        columns = [self.ratio.combine(of_ratio) if part is self.ratio else part(outputs) for part in self._scores()]
        return torch.cat([torch.stack(columns, dim=1), of_ratio], dim=1)

    def part_scores(self, statistics: Tensor) -> Tensor:
        """See `Combined`; with the ratio that was learned last."""
        n, j = len(self.weights), self._certainty
        ratio = self.ratio.combine(statistics[:, n:])[:, None]
        return torch.cat([statistics[:, :j], ratio, statistics[:, j + 1 : n]], dim=1)

    def probability_right(self, statistics: Tensor, wrong: Tensor | None = None) -> Tensor:
        """See `Combined`; with what the labels say."""
        expected = statistics[:, len(self.weights)].double().exp()
        if wrong is None:  # fitting inputs, whose labels the classifier may have learned by heart
            return expected
        n_wrong = wrong.sum()
        share = n_wrong / (n_wrong + HALF)
        known = share * (~wrong).double() + (1 - share) * expected[: len(wrong)]
        return torch.cat([known, expected[len(wrong) :]])
