"""The content of a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gmm_torch.detection.explanation.explanation import InputExplanation
from trainers.evaluation.components import Components
from trainers.records.record import Records
from trainers.report.tables.text import class_name


@dataclass(frozen=True)
class Evaluation:
    """A run's results.

    Args:
        metrics: as in metrics.json.
        records: of all images: clean test images, successes of attacks, out-of-distribution sets.
        projection: (N, 2), a plane through the features (`principal_plane`).
        images: row -> (H, W, 1 or 3) uint8, for the rows that `shown_rows(records, components)` asks for.
        class_names: index -> name.
        title: of the page.
        history: mean log-likelihood per image after each EM iteration of the first mixture, nats.
        converged: whether that fit met its tolerance.
        components: of each mixture by name, in the order of the score.
        explanations: row -> why it was refused, for the rows of `reason_rows(records)`.
        neighbours: position among the fitting images -> (H, W, 1 or 3) uint8, for those that explanations name.
    """

    metrics: Mapping[str, Any]
    records: Records
    projection: NDArray[np.floating[Any]]
    images: Mapping[int, NDArray[np.uint8]]
    class_names: Sequence[str]
    title: str
    history: Sequence[float]
    converged: bool = True
    components: Mapping[str, Components] = field(default_factory=dict)
    explanations: Mapping[int, InputExplanation] = field(default_factory=dict)
    neighbours: Mapping[int, NDArray[np.uint8]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n, n_clean = len(self.records), int(self.records.clean().sum())
        for name, components in self.components.items():
            if components.component.shape != (n_clean,):
                raise ValueError(
                    f"components of {name}: expected one a clean test image, ({n_clean},); "
                    f"got {components.component.shape}"
                )
        if self.projection.shape != (n, 2):
            raise ValueError(f"projection: expected one point a record, ({n}, 2); got {self.projection.shape}")

    @property
    def mixture(self) -> str:
        """The name of the score's first mixture, whose components the records name; empty where it has none."""
        return next(iter(self.components), "")

    @property
    def alpha(self) -> float:
        """The false alarm rate that `accept` was decided at."""
        return float(self.metrics.get("alpha", 0.05))

    @property
    def sources(self) -> list[str]:
        """The sources of failure, in the order of the results table."""
        return list(self.metrics["sources"])

    def column(self, name: str, rows: Tensor) -> NDArray[Any]:
        """The values of a column of the records in the chosen rows."""
        return np.asarray(getattr(self.records, name)[rows])

    def name(self, label: int) -> str:
        """A class in words."""
        return class_name(label, self.class_names)
