"""The table of scores.csv."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmm_torch.files import atomic_path
from trainers.modules.evaluation_module import Scored

CSV_COLUMNS = ("source", "index", "label", "prediction", "score", "p_value", "accept", "max_softmax", "component")


def score_table(
    scored: Mapping[str, Scored], labels: Mapping[str, Tensor], indices: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Columns of scores.csv as numpy arrays, sources one after another."""
    columns: dict[str, Any] = {
        "source": np.concatenate([np.full(len(part.score), source) for source, part in scored.items()]),
        "index": torch.cat([indices[source] for source in scored]).numpy(),
        "label": torch.cat([labels[source] for source in scored]).numpy(),
    }
    for name in ("prediction", "score", "p_value", "accept", "max_softmax", "component"):
        columns[name] = torch.cat([getattr(part, name) for part in scored.values()]).numpy()
    return columns


def write_scores(table: Mapping[str, Any], path: Path) -> None:
    """Write the table as CSV, one row an image."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(CSV_COLUMNS)
        writer.writerows(zip(*(table[name].tolist() for name in CSV_COLUMNS), strict=True))
