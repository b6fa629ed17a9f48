"""Error rates of the mixtures' components."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gmm_torch.detector import FailureDetector
from gmm_torch.detector.component_report import ComponentReport, component_report
from gmm_torch.detector.examples import ComponentExamples
from trainers.records.record import Records


@dataclass(frozen=True)
class Components:
    """What labelled images say about the components of one mixture."""

    found: ComponentReport  # by the clean test images
    component: NDArray[np.integer[Any]]  # (n_test,) of each of them, in the order of the records
    # (K, 2), labelled calibration images of each component, and how many are predicted wrongly; None without labels.
    held_out: NDArray[np.integer[Any]] | None = None


def components_of(detector: FailureDetector, clean: Records) -> dict[str, Components]:
    """What the test images say about the components of each mixture, and what the calibration images said."""
    found = {}
    for j, (name, model) in enumerate(detector.score.models().items()):
        component = clean.components[:, j]
        kept: ComponentExamples = detector.examples.mixtures[j]  # type: ignore[assignment]
        held_out = torch.stack([kept.labelled.sum(1), kept.wrong], dim=1).cpu()
        found[name] = Components(
            component_report(component, clean.prediction, clean.label, model.mixture.n_components),
            component.numpy(),
            held_out.numpy() if bool(held_out.any()) else None,
        )
    return found
