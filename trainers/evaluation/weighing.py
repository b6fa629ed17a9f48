"""A fitted detector, calibrated for images from elsewhere."""

import copy
import hashlib
import heapq
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import DataLoader

from gmm_torch.conformal.calibration import Calibration
from gmm_torch.conformal.density_ratio import MIN_INPUTS
from gmm_torch.conformal.weighted import WeightedCalibration, WeightedScores
from gmm_torch.detector import FailureDetector
from gmm_torch.detector.statistics import Statistics
from gmm_torch.errors import WeightsError, WeightsWarning
from gmm_torch.features.features import Chunks
from trainers.data.file_batches import FileBatches
from trainers.evaluation.split_outputs import split_statistics
from trainers.modules.evaluation_module import OutputsModule
from trainers.run.model import Model
from trainers.run.preprocessing import check_split, digest_of, split_of
from trainers.run.run import Run

MAX_FILES = 10_000  # of those to be judged, that weights are learnt from

log = logging.getLogger(__name__)


def new_weights(run: Run) -> WeightedScores:
    """The config's calibration, or that of another camera where the config has one without weights."""
    calibration = run.new_calibration()
    return calibration if isinstance(calibration, WeightedScores) else WeightedCalibration()


class Here(NamedTuple):
    """Statistics of images from where a detector was calibrated, with their labels."""

    reference: Statistics  # the validation split, with which images from elsewhere are compared
    calibration: Statistics


def images_here(run: Run, detector: FailureDetector) -> Here:
    """Read both splits; ValueError or WeightsError where they are others than at the fit, or have too few images."""
    images, indices = run.data.training_images, run.data.indices
    check_split(detector.preprocessing, split_of(run.cfg.data, images.held_out is not None) | digest_of(images))
    _check_enough(len(indices["validation"]))
    try:
        new_weights(run).require_size(detector.alpha, len(indices["calibration"]))
    except ValueError as error:
        raise ValueError(f"{error}; or fit with a smaller data.calibration_every, and say the same here") from error
    return Here(split_statistics(run, detector, "validation"), split_statistics(run, detector, "calibration"))


def weighted_detector(
    run: Run, detector: FailureDetector, calibration: WeightedScores, here: Here, deployment: DataLoader[Any]
) -> FailureDetector:
    """Another detector around the same classifier, with a calibration that is weighted by unlabelled images.

    Args:
        run, detector, here: a fitted detector, which stays as it is, and the data that it was calibrated on.
        calibration: without scores.
        deployment: batches x or (x, ...) of images as they come there.

    Raises:
        WeightsError: too few images of any kind, or calibration images that weigh too little.
    """
    _check_enough(len(here.reference.prediction))
    weighted = copy.deepcopy(detector, {id(detector.classifier): detector.classifier})
    weighted.calibration = calibration.to(run.device)
    there = Chunks(weighted.statistics)
    run.predictor.predict(OutputsModule(weighted.extractor, there.add), deployment, return_predictions=False)
    weighted.to(run.device)  # a Trainer leaves what it ran on the CPU
    weighted.adapt(Statistics.cat(there.end()), here.reference)
    return weighted.calibrate(here.calibration)


def _check_enough(n: int) -> None:
    if n < MIN_INPUTS:
        raise WeightsError(
            f"weights: expected at least {MIN_INPUTS} images in the validation split, with which those from elsewhere "
            f"are compared; got {n}: fit with a smaller data.validation_every or more images, and say the same here"
        )


def weighted_by_files(run: Run, model: Model, batches: FileBatches, path: Path) -> Model:
    """A model whose detector is weighted by image files, of many a random sample; writes the detector to `path`.

    Files that can't be read count for nothing here.
    """
    calibration, here = new_weights(run), images_here(run, model.detector)
    paths = _sample(batches.paths, run.cfg.seed)
    log.info("weights: features of %d of the %d images first", len(paths), len(batches.paths))
    shown = FileBatches(paths, batches.image_shape, batches.batch_size, resize=batches.resize)
    loader = DataLoader(shown, batch_size=None, num_workers=run.cfg.data.num_workers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WeightsWarning)  # `weights_in_words` says as much
        detector = weighted_detector(run, model.detector, calibration, here, loader)
    detector.save(path)
    log.info("detector: %s", path)
    return model._replace(detector=detector)


def weights_in_words(model: Model) -> str:
    """What the weights are worth, in a sentence."""
    calibration = model.detector.calibration
    return f"Calibration {calibration.name}, from these images: {calibration.describe(model.class_names)}."


def weighted_bars(calibration: Calibration) -> str:
    """What a histogram of p-values with weights shows; empty where calibration scores have none."""
    if not isinstance(calibration, WeightedScores):
        return ""
    return (
        f"A bar is a share of the images, each counted once. Of {len(calibration):,} calibration images the "
        f"{calibration.n_carrying(0.5):,} heaviest carry half of the weight; p-values gather beside heavy ones, how "
        "much by chance is not known, so no band is drawn."
    )


def weights_facts(model: Model) -> dict[str, Any]:
    """The same for JSON, of any calibration."""
    calibration = model.detector.calibration
    size = calibration.effective_size if isinstance(calibration, WeightedScores) else float(len(calibration))
    words = calibration.describe(model.class_names)
    return {"name": calibration.name, "n": len(calibration), "effective_size": size, "in_words": words}


def _sample(paths: Sequence[str], seed: int) -> list[str]:
    """At most `MAX_FILES` of the paths, drawn by what they are called, in their order."""

    def draw(i: int) -> bytes:
        return hashlib.sha256(f"{seed} ".encode() + os.fsencode(paths[i])).digest()

    if len(paths) <= MAX_FILES:
        return list(paths)
    return [paths[i] for i in sorted(heapq.nsmallest(MAX_FILES, range(len(paths)), key=draw))]
