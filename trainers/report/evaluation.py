"""What a report is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
class Evaluation:
    """A run's results, one row per scored image.

    Args:
        metrics: as in metrics.json.
        table: the columns `COLUMNS`, each (n,). `source` is `TEST` for clean test images, else
            "adversarial/<attack>" or "ood/<name>"; label -1 where an image has no class.
        projection: (n, 2), a plane through the features (`principal_plane`).
        images: row -> (H, W, 1 or 3) uint8, for the rows that `gallery_rows(table)` asks for.
        class_names: index -> name.
        title: of the page.
        history: mean log-likelihood per image after each EM iteration, nats.

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

    def __post_init__(self) -> None:
        missing = [name for name in COLUMNS if name not in self.table]
        if missing:
            raise ValueError(f"the table lacks the columns {missing}; it needs {list(COLUMNS)}.")
        lengths = {name: len(self.table[name]) for name in COLUMNS}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the table's columns must have one length; got {lengths}.")
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
