"""The content of a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gmm_torch.detector.explanation import Explanation
from trainers.evaluation.components import Components
from trainers.records.record import Records
from trainers.report.tables.text import class_name


@dataclass(frozen=True)
class Evaluation:
    """A run's results."""

    metrics: Mapping[str, Any]  # as in metrics.json
    records: Records  # of all images: clean test images, successes of attacks, out-of-distribution sets
    projection: NDArray[np.floating[Any]]  # (N, 2), a plane through the features (`principal_plane`)
    images: Mapping[int, NDArray[np.uint8]]  # row -> (H, W, 1 or 3), for the rows of `shown_rows(records, components)`
    class_names: Sequence[str]
    title: str
    history: Sequence[float]  # mean log-likelihood after each EM iteration of the first mixture, nats an image
    converged: bool = True  # whether that fit met its tolerance
    components: Mapping[str, Components] = field(default_factory=dict)  # of each mixture, in the order of the score
    explanations: Mapping[int, Explanation] = field(default_factory=dict)  # for the rows of `reason_rows(records)`
    # Position among the fitting images -> (H, W, 1 or 3), for those that explanations name.
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

    def column(self, name: str, rows: Tensor) -> NDArray[Any]:
        """The values of a column of the records in the chosen rows."""
        return np.asarray(getattr(self.records, name)[rows])

    def name(self, label: int) -> str:
        """A class in words."""
        return class_name(label, self.class_names)
