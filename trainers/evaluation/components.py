"""What the components of the mixtures stand for."""

import torch
from torch import Tensor

from gmm_torch.detection import FailureDetector
from gmm_torch.detection.explanation.component_report import component_report
from gmm_torch.detection.explanation.examples import ComponentExamples
from trainers.modules.evaluation_module import Scored
from trainers.report import Components


def components_of(detector: FailureDetector, clean: Scored, labels: Tensor) -> dict[str, Components]:
    """What the test images say about the components of each mixture, and what the calibration images said."""
    found = {}
    for j, (name, model) in enumerate(detector.score.models().items()):
        component = clean.components[:, j]
        kept: ComponentExamples = detector.examples.mixtures[j]  # type: ignore[assignment]
        held_out = torch.stack([kept.labelled.sum(1), kept.wrong], dim=1).cpu()
        found[name] = Components(
            component_report(component, clean.prediction, labels, model.mixture.n_components),
            component.numpy(),
            held_out.numpy() if bool(held_out.any()) else None,
        )
    return found
