"""Records of all images of a data set."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from gmm_torch.detector import FailureDetector, Features
from gmm_torch.detector.verdict import Verdict
from trainers.modules.evaluation_module import EvaluationModule
from trainers.records.record import Records, records_of
from trainers.run.run import Run


def predict(
    run: Run,
    detector: FailureDetector,
    dataset: Dataset[Any],
    source: str,
    label: Tensor | None = None,
    index: Tensor | None = None,
) -> Records:
    """Records of the images of a data set, in its order.

    Args:
        run, detector, dataset: what decides of which images.
        source: see `Records`.
        label: (N,) int64, the true classes; none of the classes where left out.
        index: (N,) int64, see `Records`; positions in `dataset` where left out.
    """
    if n := len(dataset):  # type: ignore[arg-type]
        records = Records.cat(run.predict(EvaluationModule(detector), run.loader(dataset), f"score {source}"))
    else:
        records = _none()
    sources, positions = np.full(n, source, dtype=object), torch.arange(n) if index is None else index
    return replace(records, source=sources, index=positions, label=records.label if label is None else label)


def _none() -> Records:
    empty = torch.empty(0)
    outputs = Features(torch.empty(0, 1, 1), {})
    return records_of(outputs, Verdict(outputs.own_logits, empty.long(), empty, empty.double(), empty.bool()))
