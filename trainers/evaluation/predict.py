"""Verdicts on a whole data set."""

from typing import Any

import torch
from torch.utils.data import Dataset

from gmm_torch.detection import FailureDetector
from trainers.modules.evaluation_module import EvaluationModule, Scored, cat_scored
from trainers.run.run import Run


def predict(run: Run, detector: FailureDetector, dataset: Dataset[Any], what: str) -> Scored:
    """What the detector says of each image, in order."""
    if len(dataset) == 0:  # type: ignore[arg-type]
        empty = torch.empty(0)
        none = empty.long()
        components = none.reshape(0, len(detector.score.models()))
        features = empty.reshape(0, list(detector.widths.values())[-1])
        return Scored(none, empty, empty, empty.bool(), empty, none, components, features)
    return cat_scored(run.predict(EvaluationModule(detector), run.loader(dataset), f"score {what}"))
