"""The stages of scoring as functions of a row of an Arrow table: to decode, and to judge where a model is held."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from omegaconf import OmegaConf

from trainers.data.file_batches import FileBatch, FileBatches
from trainers.data.images import ImageShape
from trainers.data.resize import Resize
from trainers.modules.evaluation_module import EvaluationModule
from trainers.run.model import load_model
from trainers.run.run import Run
from trainers.scoring.record_table import table_of

if TYPE_CHECKING:
    import pyarrow as pa


def decoded(row: "pa.Table", image_shape: ImageShape, resize: Resize) -> "pa.Table":
    """A batch of images for the paths in a row."""
    import pyarrow as pa

    paths = [os.fsdecode(path) for path in row["paths"][0].as_py()]
    batch = FileBatches(paths, image_shape, len(paths), resize=resize)[0]
    columns = {
        "paths": row["paths"],
        "errors": pa.array([[os.fsencode(error) for error in batch.errors]], pa.list_(pa.binary())),
        "images": pa.array([batch.images.numpy().tobytes()], pa.large_binary()),
    }
    return pa.table(columns)


class Judge:
    """Loads classifier and detector once, and judges a batch a call, as `trainer.predict` would.

    Args:
        cfg: of the run, resolved.
        class_names, image_shape: of the model, for which the data then need not be read.
        modules: folders where modules are found besides, such as that of a user's own network.
    """

    def __init__(
        self, cfg: Mapping[str, Any], class_names: Sequence[str], image_shape: ImageShape, modules: Sequence[str]
    ) -> None:
        sys.path += [folder for folder in modules if folder not in sys.path]
        config = OmegaConf.create({**cfg, "logger": {}})
        config.data.image_shape = list(image_shape)
        run = Run(config, Path(config.paths.output))
        model = load_model(run, "score", list(class_names))
        self.image_shape = image_shape
        self.device = run.device
        self.precision = run.predictor.precision_plugin
        self.module = EvaluationModule(model.detector).to(run.device).eval()
        self.precision.convert_module(self.module)

    @torch.inference_mode()
    def __call__(self, row: "pa.Table") -> "pa.Table":
        """The records of a batch that `decoded` made, as `table_of` puts them into a row."""
        paths, errors = ([os.fsdecode(word) for word in row[name][0].as_py()] for name in ("paths", "errors"))
        pixels = np.frombuffer(row["images"][0].as_buffer(), dtype=np.float32)
        images = torch.tensor(pixels).reshape(len(paths), *self.image_shape)
        batch = self.precision.convert_input(FileBatch(images, paths, errors))
        with self.precision.predict_step_context():
            records = self.module.predict_step(batch._replace(images=batch.images.to(self.device)), 0)
        return table_of(records)
