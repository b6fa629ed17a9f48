"""The file of scores: one row an evaluated image."""

import csv
from pathlib import Path

from gmm_torch.files import atomic_path
from trainers.records.record import Records

COLUMNS = ("source", "index", "label", "prediction", "score", "p_value", "accept", "max_softmax", "component")


def write_scores(records: Records, path: Path) -> None:
    """Write records as CSV."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(zip(*(getattr(records, name).tolist() for name in COLUMNS), strict=True))
