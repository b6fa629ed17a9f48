"""What judges new images: a classifier and its detector, for whose loading the data need not be there."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig
from torch import nn

from gmm_torch.detector import FailureDetector
from gmm_torch.detector.file import read
from gmm_torch.errors import FileFormatError
from trainers.classifiers.build import build_classifier
from trainers.data.images import ImageShape
from trainers.data.resize import DEFAULT_RESIZE, Resize, resize_of
from trainers.run.preprocessing import MOMENTS, in_another_way, preprocessing_of
from trainers.run.requirements import require, require_detector
from trainers.run.run import Run

log = logging.getLogger(__name__)


class Model(NamedTuple):
    """A fitted detector, on the run's device, and what its images (C, H, W) and classes are."""

    detector: FailureDetector
    class_names: Sequence[str]
    image_shape: ImageShape
    resize: Resize


def load_detector(cfg: DictConfig, classifier: nn.Module, image_shape: Sequence[int]) -> FailureDetector:
    """The detector of `checkpoint`, for images of this shape (C, H, W); says where they are prepared in another way.

    ValueError where it was fitted to images of another shape, or normalised in another way, or for another classifier.
    """
    now = preprocessing_of(classifier, resize_of(cfg.data.get("source")))
    try:
        detector = FailureDetector.load(cfg.checkpoint, classifier)
    except FileFormatError:
        raise
    except ValueError as error:  # the normalisation is among the weights
        moments = {name: now[name] for name in MOMENTS}
        if reason := in_another_way(read(cfg.checkpoint)[0].preprocessing, moments):
            raise ValueError(reason) from error
        raise
    fitted = detector.extractor.input_shape
    if fitted is not None and tuple(image_shape) != fitted:
        expected, got = ("[" + ",".join(map(str, shape)) + "]" for shape in (fitted, image_shape))
        raise ValueError(
            f"data.image_shape: expected {expected}, of the images that the detector {cfg.checkpoint} was fitted to; "
            f"got {got}: set data.image_shape={expected}"
        )
    if warning := in_another_way(detector.preprocessing, now):
        log.warning("%s", warning)
    return detector


def load_model(run: Run, task: str, class_names: Sequence[str] | str | None) -> Model:
    """Load `classifier.checkpoint` and the detector of `checkpoint`.

    Args:
        run, task: the run, and its task's name, for errors.
        class_names: a list, or a text file (UTF-8) with one a line: then the data are not looked at, and
            `data.image_shape` must be set; None for those of the data.

    Raises:
        ValueError: a file or a setting is missing, or there are not as many names as the classifier has classes.
    """
    cfg = run.cfg
    require_detector(cfg, task)
    if class_names is None:
        names, image_shape, classifier = run.data.class_names, run.data.image_shape, run.classifier
    else:
        require(cfg.data.image_shape, "data.image_shape", "task.class_names stands for the data, which gives the shape")
        if isinstance(class_names, str):
            class_names = Path(class_names).read_text(encoding="utf-8").splitlines()
        names = list(class_names)
        image_shape = tuple(cfg.data.image_shape)
        classifier = build_classifier(cfg.classifier, len(names), image_shape)
    detector = load_detector(cfg, classifier.to(run.device), image_shape)
    # Data of one size say nothing of image files of any size; the detector's file does if it was fitted to such files.
    resize = resize_of(cfg.data.get("source")) or resize_of(detector.preprocessing) or DEFAULT_RESIZE
    return Model(detector, names, image_shape, resize)
