"""Lightning's loggers where a run needs a little more of them."""

import csv
import os
from pathlib import Path
from typing import Any

from lightning.pytorch import loggers
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only


class CSVLogger(loggers.CSVLogger):
    """Knows the columns that another process of the run has written: with `ddp_spawn` each training is another's."""

    @rank_zero_only
    def save(self) -> None:
        """Write what was logged since the last time."""
        writer = self.experiment
        if Path(writer.metrics_file_path).is_file():
            with open(writer.metrics_file_path, newline="") as file:
                writer.metrics_keys = sorted({*writer.metrics_keys, *next(csv.reader(file), [])})
        super().save()


def mlflow_logger(save_dir: str, tracking_uri: str | None = None, **options: Any) -> MLFlowLogger:
    """Lightning's logger of MLflow, with the server of `tracking_uri` or MLFLOW_TRACKING_URI.

    Without one it writes to a database in the run's folder, `save_dir`: MLflow refuses plain folders.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None:
        folder = Path(save_dir).resolve() / "mlflow"
        folder.mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        options = {"artifact_location": (folder / "artifacts").as_uri(), **options}
    return MLFlowLogger(tracking_uri=uri, **options)
