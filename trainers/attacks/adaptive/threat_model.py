"""What an attacker knows, and what it observes of an image: the verdict, and a margin with a gradient."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from gmm_torch.detector import FailureDetector, Features
from gmm_torch.detector.verdict import Verdict
from gmm_torch.scores import Score
from gmm_torch.scores.combination import log_tail
from gmm_torch.scores.combined import Combined

# Bandwidth of the smoothed ranks, in standard deviations of the reference scores: wide enough to bridge their gaps.
BANDWIDTH = 0.2


@dataclass(frozen=True)
class ThreatModel:
    """What an attacker knows."""

    detector: FailureDetector  # fitted and calibrated, with its classifier
    images: Tensor  # to attack, (N, C, H, W) in [0, 1]
    labels: Tensor  # (N,) int64, true classes
    outputs: Features  # of the images
    others: Features  # of clean images that are accepted, M of them, to imitate

    def rows(self, index: Tensor | slice) -> "ThreatModel":
        """Some of the images to attack."""
        return replace(self, images=self.images[index], labels=self.labels[index], outputs=self.outputs.rows(index))


@dataclass(frozen=True)
class Observation:
    """Of n images."""

    outputs: Features  # of classifier and features, with their graph
    verdict: Verdict  # the detector's real one
    # (n,), score less the threshold, in standard deviations of the calibration scores: accepted where it is >= 0. The
    # value is the detector's own, the gradient that of `smooth_score`.
    margin: Tensor

    @property
    def logits(self) -> Tensor:
        """(n, C), the classifier's."""
        return self.outputs.own_logits

    def evades(self, labels: Tensor) -> Tensor:
        """(n,) bool: accepted, and another class than the label."""
        return self.verdict.accept & (self.verdict.prediction != labels)


def observe(detector: FailureDetector, x: Tensor) -> Observation:
    """Show images (n, C, H, W) to a detector that is fitted and calibrated."""
    outputs = detector.extractor(x)
    score = smooth_score(detector.score, outputs)
    verdict = detector(outputs)
    scores = detector.calibration.scores
    unit = scores.std(correction=0).clamp_min(torch.finfo(scores.dtype).eps)
    return Observation(outputs, verdict, (score - detector.threshold(outputs)) / unit)


def smooth_score(score: Score, outputs: Features) -> Tensor:
    """The score, (n,), whose gradient leads through smoothed ranks where the score ranks its parts.

    The slope of a rank jumps from one reference score to the next and is zero above the last. An attack that follows
    it measures a detector by the noise of its reference set; Tramer et al. 2020, "On adaptive attacks to adversarial
    example defenses", advise to smooth what is not.
    """
    if not isinstance(score, Combined):
        return score(outputs)
    pairs = zip(score.parts.values(), score.references, strict=True)
    log_p = torch.stack([smooth_log_tail(part(outputs), reference) for part, reference in pairs], dim=-1)
    return score.join(log_p)


def smooth_log_tail(score: Tensor, reference: Tensor) -> Tensor:
    """`log_tail` with the gradient of log mean_i sigmoid((score - reference_i) / h).

    The kernel makes the distribution function smooth; far below all references its logarithm falls with slope 1 / h.

    Args:
        score: (n,).
        reference: (m,), ascending, m >= 2.
    """
    width = (BANDWIDTH * reference.std()).clamp_min(torch.finfo(reference.dtype).eps)
    smooth = F.logsigmoid((score[:, None] - reference) / width).logsumexp(1)
    return log_tail(score.detach(), reference) + (smooth - smooth.detach())
