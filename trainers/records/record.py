"""Records of evaluated inputs: the one table behind score files, metrics, report, service and files of verdicts."""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmm_torch.detector import Features
from gmm_torch.detector.verdict import Verdict
from gmm_torch.files import atomic_path
from gmm_torch.scores import make_score

TEST = "test"
"""The source of the clean test images; the others are "adversarial/<attack>" and "ood/<set>"."""
SCORES = ("source", "index", "label", "prediction", "score", "p_value", "accept", "max_softmax", "component")


class Record(NamedTuple):
    """One input and the verdict on it; see `Records` for the columns."""

    path: str
    class_name: str  # of the prediction; empty where the input can't be read
    score: float  # NaN there
    p_value: float  # likewise
    accept: bool
    component: int
    error: str
    prediction: int = -1
    max_softmax: float | None = None
    finite: bool = True


def unreadable(path: str, error: str) -> Record:
    """The row of a file that can't be read."""
    return Record(path, "", math.nan, math.nan, False, -1, error)


@dataclass(eq=False)  # not frozen, or Lightning could not take it to the CPU
class Records:
    """N inputs and the verdicts on them, on the CPU, one row an input."""

    source: NDArray[np.object_]  # (N,) str, `TEST`, "adversarial/<attack>" or "ood/<set>"; empty where nobody asks
    path: NDArray[np.object_]  # (N,) str, of the input's file; empty where it has none
    error: NDArray[np.object_]  # (N,) str, why the file can't be read; empty where it can
    index: Tensor  # (N,) int64, position in its data set
    label: Tensor  # (N,) int64, the true class; -1 where it is unknown, or none of the classes
    prediction: Tensor  # (N,) int64
    score: Tensor  # (N,), higher = more typical; -inf where an output is not finite, NaN where the file can't be read
    p_value: Tensor  # (N,); NaN where the file can't be read
    accept: Tensor  # (N,) bool; never where an output is not finite
    finite: Tensor  # (N,) bool, whether logits, features and score are finite numbers
    max_softmax: Tensor  # (N,), the baseline: the largest softmax probability
    components: Tensor  # (N, J) int64, the most probable one of each of J mixtures; -1 where features are not finite
    features: Tensor  # (N, D) of the last layer, for pictures; D = 0 where nobody asks

    def __post_init__(self) -> None:
        lengths = {each.name: len(getattr(self, each.name)) for each in fields(self)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"records: expected columns of one length; got {lengths}")

    def __len__(self) -> int:
        return len(self.score)

    @property
    def component(self) -> Tensor:
        """(N,) int64, that of the first mixture; -1 for a score without a mixture, and for a file without an image."""
        if not self.components.shape[1]:
            return torch.full_like(self.prediction, -1)
        return self.components[:, 0].masked_fill(torch.from_numpy(self.error != ""), -1)

    @property
    def wrong(self) -> Tensor:
        """(N,) bool, where the prediction is not the label."""
        return self.prediction != self.label

    def clean(self) -> Tensor:
        """(N,) bool, the clean test images."""
        return torch.from_numpy(self.source == TEST)

    def good(self, source: str) -> Tensor:
        """(N,) bool, the clean inputs that the failures of a source are compared with.

        For an out-of-distribution set these are all clean inputs, else those with a right prediction.
        """
        return self.clean() if source.startswith("ood/") else self.clean() & ~self.wrong

    def failures(self, source: str) -> Tensor:
        """(N,) bool, the failures of a source; an attack has failed where the prediction is still right."""
        if source == "errors":
            return self.clean() & self.wrong
        rows = torch.from_numpy(self.source == source)
        return rows & self.wrong if source.startswith("adversarial/") else rows

    def rows(self, which: Tensor) -> Self:
        """Some of the rows, by positions or by a mask."""
        columns = {each.name: getattr(self, each.name) for each in fields(self)}
        picked = {name: value[which if isinstance(value, Tensor) else which.numpy()] for name, value in columns.items()}
        return replace(self, **picked)

    def split(self, sizes: Sequence[int]) -> list[Self]:
        """Parts of these sizes, one after another."""
        return [self.rows(part) for part in torch.arange(len(self)).split(list(sizes))]

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Several batches, one after another; empty ones count for nothing where there are others."""
        parts = [part for part in parts if len(part)] or parts[:1]
        joined: dict[str, Any] = {}
        for each in fields(cls):
            column = [getattr(part, each.name) for part in parts]
            joined[each.name] = torch.cat(column) if isinstance(column[0], Tensor) else np.concatenate(column)
        return cls(**joined)

    def records(self, class_names: Sequence[str] | None = None) -> Iterator[Record]:
        """The rows, one by one; classes by their number where they have no names."""
        names = ("path", "error", "prediction", "score", "p_value", "accept", "component", "max_softmax", "finite")
        for values in zip(*(getattr(self, name).tolist() for name in names), strict=True):
            row = dict(zip(names, values, strict=True))
            name = str(row["prediction"]) if class_names is None else class_names[row["prediction"]]
            yield Record(class_name="" if row["error"] else name, **row)


def records_of(
    outputs: Features,
    verdict: Verdict,
    *,
    components: Tensor | None = None,
    features: Tensor | None = None,
    path: Sequence[str] | None = None,
    error: Sequence[str] | None = None,
) -> Records:
    """Records of a batch of N inputs, from what the classifier and the detector say about them.

    They have no source and no label. An input whose logits, features or score are not finite is refused, whatever the
    calibration makes of it, and so is a file that can't be read.
    """
    n = len(verdict.score)
    paths, errors = (np.array(words or [""] * n, dtype=object) for words in (path, error))
    parts = (outputs.logits, *outputs.layers.values(), verdict.score[:, None])
    finite = torch.stack([part.isfinite().flatten(1).all(1) for part in parts]).all(0)
    nothing = verdict.score.new_zeros(n, 0)
    damaged = torch.from_numpy(errors != "").to(finite.device)
    columns = {
        "label": torch.full((n,), -1),
        "index": torch.arange(n),
        "prediction": verdict.prediction,
        "score": verdict.score.masked_fill(~finite, -torch.inf).masked_fill(damaged, torch.nan),
        "p_value": verdict.p_value.masked_fill(damaged, torch.nan),
        "accept": verdict.accept & finite & ~damaged,
        "finite": finite,
        "max_softmax": make_score("max_softmax")(outputs),
        "components": nothing.long() if components is None else components,
        "features": nothing if features is None else features,
    }
    tensors = {name: value.detach().cpu() for name, value in columns.items()}
    return Records(source=np.full(n, "", dtype=object), path=paths, error=errors, **tensors)


def write_scores(records: Records, path: Path) -> None:
    """Write the columns `SCORES` as CSV, one row an evaluated image."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(SCORES)
        writer.writerows(zip(*(getattr(records, name).tolist() for name in SCORES), strict=True))
