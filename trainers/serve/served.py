"""The detector that is in force, and what belongs to it alone."""

import hashlib
import json
import logging
from collections.abc import Sequence

import torch

from gmm_torch.detector import FailureDetector
from gmm_torch.detector.weights import fingerprint
from gmm_torch.errors import NotFittedError
from trainers.data.images import ImageShape
from trainers.serve.drift import Drift, Watch
from trainers.serve.predictor import Judged, Predictor, Question

log = logging.getLogger(__name__)


class Served:
    """A detector, checked; it judges until another takes its place.

    Args:
        detector, image_shape, class_names, drift: see `create_app`, which raises what this does.

    Attributes:
        version: names detector, calibration and classifier; see `version_of`.
        n_classes: that the classifier knows.
        drift: of the images that this detector judged.
        told_of_size: whether the log says that images came in another size than the calibration images.
    """

    def __init__(
        self, detector: FailureDetector, image_shape: ImageShape, class_names: Sequence[str] | None, drift: Watch
    ) -> None:
        self.n_classes = _check(detector, image_shape, class_names)
        self.detector = detector
        self.version = version_of(detector)
        self.drift = Drift(drift(detector.calibration.scores), detector.alpha)
        self.predictor = Predictor(detector, class_names)
        self.told_of_size = False

    def warm(self, blank: Sequence[Question]) -> None:
        """Judge blank images, uncounted, so that the model allocates what it needs."""
        self.predictor(blank)

    def judge(self, questions: Sequence[Question]) -> tuple[list[Judged], bool]:
        """One verdict a question, in the order of the stream, and whether they raised the drift alarm."""
        judged = self.predictor(questions)
        records = [each.record for each in judged]
        scores = torch.tensor([record.score for record in records], dtype=torch.float64)
        alarm = self.drift.update(
            scores, sum(not record.accept for record in records), sum(not record.finite for record in records)
        )
        if alarm:
            log.warning("drift: %s", self.drift.monitor.alarm_in_words)
        return judged, alarm


def version_of(detector: FailureDetector) -> str:
    """Twelve hexadecimal digits that another classifier, score, calibration or alpha changes."""
    parts = {
        "alpha": detector.alpha,
        "score": [detector.score.name, detector.score.options()],
        "calibration": [detector.calibration.name, detector.calibration.options()],
        "state": fingerprint(detector),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


@torch.inference_mode()
def _check(detector: FailureDetector, shape: ImageShape, class_names: Sequence[str] | None) -> int:
    """Raise now what would fail every request; gives the number of classes."""
    try:
        n_classes = detector(torch.zeros(2, *shape, device=detector.device)).logits.shape[-1]
    except NotFittedError:
        raise
    except RuntimeError as error:
        raise ValueError(
            f"the classifier: expected one that takes images of shape (N, {', '.join(map(str, shape))}); got an error "
            f"({error}): set data.image_shape to the shape that it takes"
        ) from error
    if class_names is not None and len(class_names) < n_classes:
        raise ValueError(f"class_names: expected {n_classes}, one a class; got {len(class_names)}")
    detector.calibration.target(detector.alpha)
    return n_classes
