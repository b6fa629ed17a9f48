"""What a report is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_torch.detection.explanation.component_report import ComponentReport, Share
from gmm_torch.detection.explanation.explanation import InputExplanation
from trainers.report.words import class_name, in_words

TEST = "test"  # the source of the clean test images; the others are those of metrics["sources"] but "errors"
COLUMNS = (
    "source",
    "index",
    "label",
    "prediction",
    "score",
    "p_value",
    "accept",
    "max_softmax",
    "component",
)


@dataclass(frozen=True)
class Components:
    """What labelled images say about the components of one mixture.

    Attributes:
        found: the report by the clean test images.
        component: (n_test,) the component of each of them, in the order of the table.
        held_out: (K, 2), labelled calibration images of each component, and how many are predicted wrongly; None where
            the detector was given no labels.
    """

    found: ComponentReport
    component: NDArray[np.integer[Any]]
    held_out: NDArray[np.integer[Any]] | None = None


@dataclass(frozen=True)
class Evaluation:
    """A run's results, one row per scored image.

    Args:
        metrics: as in metrics.json.
        table: the columns `COLUMNS`, each (n,). `source` is `TEST` for clean test images, else
            "adversarial/<attack>" or "ood/<name>"; label -1 where an image has no class.
        projection: (n, 2), a plane through the features (`principal_plane`).
        images: row -> (H, W, 1 or 3) uint8, for the rows that `shown_rows(table, components)` asks for.
        class_names: index -> name.
        title: of the page.
        history: mean log-likelihood per image after each EM iteration, nats.
        components: of each mixture by name.
        explanations: row -> why it was refused, for the rows of `reason_rows(table)`.
        neighbours: position among the fitting images -> (H, W, 1 or 3) uint8, for those that explanations name.

    Raises:
        ValueError: if a column is missing or the lengths differ.
    """

    metrics: Mapping[str, Any]
    table: Mapping[str, NDArray[Any]]
    projection: NDArray[np.floating[Any]]
    images: Mapping[int, NDArray[np.uint8]]
    class_names: Sequence[str]
    title: str
    history: Sequence[float]
    components: Mapping[str, Components] = field(default_factory=dict)
    explanations: Mapping[int, InputExplanation] = field(default_factory=dict)
    neighbours: Mapping[int, NDArray[np.uint8]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        missing = [name for name in COLUMNS if name not in self.table]
        if missing:
            raise ValueError(f"the table lacks the columns {missing}; it needs {list(COLUMNS)}.")
        lengths = {name: len(self.table[name]) for name in COLUMNS}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the table's columns must have one length; got {lengths}.")
        n_clean = int(self.clean().sum())
        for name, components in self.components.items():
            if components.component.shape != (n_clean,):
                raise ValueError(
                    f"components of {name}: expected one a clean test image, ({n_clean},); "
                    f"got {components.component.shape}."
                )
        if self.projection.shape != (lengths["source"], 2):
            raise ValueError(
                f"projection must have one point per row of the table, ({lengths['source']}, 2); "
                f"got {self.projection.shape}."
            )

    @property
    def alpha(self) -> float:
        """The false alarm rate that `accept` was decided at."""
        return float(self.metrics.get("alpha", 0.05))

    @property
    def sources(self) -> list[str]:
        """The sources of failure, in the order of the results table."""
        return list(self.metrics["sources"])

    def clean(self) -> NDArray[np.bool_]:
        """(n,) True for clean test images."""
        return np.asarray(self.table["source"] == TEST)

    def correct(self) -> NDArray[np.bool_]:
        """(n,) True for clean test images that the classifier gets right."""
        return np.asarray(self.clean() & (self.table["prediction"] == self.table["label"]))

    def failures(self, source: str) -> NDArray[np.bool_]:
        """(n,) True for the failures of a source; an attack fails where the prediction is still right."""
        mistaken = self.table["prediction"] != self.table["label"]
        if source == "errors":
            return np.asarray(self.clean() & mistaken)
        rows = self.table["source"] == source
        return np.asarray(rows & mistaken if source.startswith("adversarial/") else rows)

    def good(self, source: str) -> NDArray[np.bool_]:
        """(n,) True for the inputs that the failures of a source are compared with."""
        return self.clean() if source.startswith("ood/") else self.correct()

    def column(self, name: str, rows: NDArray[np.bool_]) -> NDArray[Any]:
        """The values of a column in the chosen rows."""
        return np.asarray(self.table[name])[rows]

    def name(self, label: int) -> str:
        """A class in words."""
        return class_name(label, self.class_names)

    def made_of(self, predictions: Sequence[Share]) -> str:
        """The first of some classes with their shares, in words."""
        return in_words(predictions, self.class_names)
