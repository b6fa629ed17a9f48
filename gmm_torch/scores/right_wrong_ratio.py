"""Likelihood ratio of right to wrong predictions, learned from labelled calibration inputs."""

from typing import Self

import torch
from torch import Tensor

from gmm_torch.errors import LabelsWarning, warn
from gmm_torch.features.features import Features, in_chunks
from gmm_torch.features.inputs import NO_LABELS
from gmm_torch.scores.base import Fitter, Score
from gmm_torch.scores.mean_log_probability import MeanLogProbability

HALF = 20  # wrong predictions that give half its weight to what they teach
_RIDGE = 0.1  # in units of the variance of each variable
_MIN_WRONG = 2  # of fewer there is no spread


class RightWrongRatio(Score):
    """log p(z | right) - log p(z | wrong), up to a constant, for two normal distributions of z with one covariance.

    z are measures of certainty: `mean_log_probability`, the log-odds of the predicted class in each view, and minus
    the entropy of the softmax. The optimal way to choose among predictions is by that ratio (Neyman and Pearson;
    Heng and Soh 2025, "Know when to abstain: optimal selective classification with likelihood ratios",
    arXiv:2505.15008, who take distances of features for z; wrong predictions are few, and features of many
    directions learn them by heart).

    With m the difference of the two means, S the mean of the two covariances and a ridge, the score is z S^-1 m. A
    share n / (n + 20) of m comes from n wrong predictions. The rest is what would be if `mean_log_probability` told
    right from wrong by a standard deviation, and the other variables nothing that it does not. So few wrong
    predictions, or none, leave the order of `mean_log_probability`.

    It wants labels at calibration: `FailureDetector.calibrate` takes them from batches (x, label, ...). It learns from
    a third of the calibration inputs, and is calibrated on the others: p-values stay valid.

    Args:
        keep: see `MeanLogProbability`.
    """

    name = "right_wrong_ratio"
    min_classes = 2
    reads_features = False
    views = ("identity", "mirror", "blur")
    n_reference = 1  # nothing is ranked among fitting inputs; calibration inputs are what it learns from
    needs_labels_to_calibrate = True
    scale: Tensor  # (D,)
    direction: Tensor  # (D,)

    def __init__(self, keep: float = 0.95) -> None:
        super().__init__()
        self.keep = keep
        self.mean_log_probability = MeanLogProbability(keep)
        self.register_buffer("scale", torch.ones(3))
        self.register_buffer("direction", _first(3))

    def build(self, widths: dict[str, int], n_views: int, n_classes: int) -> Self:
        self.mean_log_probability.build(widths, n_views, n_classes)
        self.scale, self.direction = torch.ones(n_views + 2), _first(n_views + 2)
        return super().build(widths, n_views, n_classes)

    def fit(self, outputs: Features, fitter: Fitter) -> Self:
        """See `Score`; no label is used."""
        self.mean_log_probability.fit(outputs, fitter)
        z = in_chunks(self.statistics, outputs)
        self.scale, self.direction = _spread(z), _first(z.shape[1]).to(z)
        return self

    def set_reference(self, statistics: Tensor, wrong: Tensor | None = None) -> Self:
        """See `Score`.

        Raises:
            ValueError: `wrong` is missing.

        Warns:
            LabelsWarning: fewer than two predictions are wrong, or right.
        """
        if wrong is None:
            raise ValueError(NO_LABELS)
        n_wrong, n = int(wrong.sum()), len(wrong)
        self.direction = _first(statistics.shape[1]).to(statistics)
        if min(n_wrong, n - n_wrong) < _MIN_WRONG:
            warn(
                f"labels: expected at least {_MIN_WRONG} wrong and {_MIN_WRONG} right predictions to learn from; got "
                f"{n_wrong} wrong of {n}: the classifier's certainty decides: give more labelled inputs",
                LabelsWarning,
            )
            return self
        self.scale = _spread(statistics)
        self.direction = log_ratio_direction(statistics / self.scale, wrong).to(statistics)
        return self

    def combine(self, statistics: Tensor) -> Tensor:
        return (statistics / self.scale) @ self.direction

    def statistics(self, outputs: Features) -> Tensor:
        """z, (N, V + 2); see `Score`."""
        log_p = outputs.own_logits.log_softmax(-1)
        certainty, entropy = self.mean_log_probability(outputs), (log_p.exp() * log_p).sum(-1)
        return torch.cat([certainty[:, None], outputs.log_odds(), entropy[:, None]], dim=1)

    def forward(self, outputs: Features) -> Tensor:
        """(N,), in nats."""
        return self.combine(self.statistics(outputs))


def log_ratio_direction(z: Tensor, wrong: Tensor) -> Tensor:
    """S^-1 m of `RightWrongRatio`, (D,) float64, from z (N, D), the first variable certainty, and who is wrong (N,)."""
    wide = z.double()
    n_wrong = int(wrong.sum())
    share = n_wrong / (n_wrong + HALF)
    means, covariances = [], []
    for part in (wide[~wrong], wide[wrong]):
        means.append(part.mean(0))
        centred = part - means[-1]
        covariances.append(centred.mT @ centred / len(part))
    of_right, of_wrong = covariances
    ridge = _RIDGE * torch.eye(z.shape[1], dtype=wide.dtype, device=wide.device)
    covariance = (of_right + share * of_wrong + (1 - share) * of_right) / 2 + ridge
    found = means[0] - means[1]
    along = covariance[:, 0] / covariance[0, 0]  # how the others move with certainty
    difference = along * (share * found[0] + (1 - share)) + share * (found - along * found[0])
    solution: Tensor = torch.cholesky_solve(difference[:, None], torch.linalg.cholesky_ex(covariance).L)[:, 0]
    return solution


def _spread(z: Tensor) -> Tensor:
    """Standard deviation of each variable, (D,); 1 where it is constant."""
    deviation = z.double().std(0, correction=0)
    return torch.where(deviation > torch.finfo(z.dtype).tiny ** 0.5, deviation, 1).to(z)


def _first(n: int) -> Tensor:
    return torch.arange(n).eq(0).float()
