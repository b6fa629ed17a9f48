"""Fitting and calibrating a detector."""

import hashlib
import logging
import shutil
import warnings
from itertools import count
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from gmm_torch.detector import FailureDetector
from gmm_torch.detector.summary import diagnose
from gmm_torch.errors import ConvergenceWarning
from gmm_torch.lightning.mixture_module import MixtureModule
from gmm_torch.mixture import GaussianMixture
from gmm_torch.scores import Score
from trainers.cache.run_folder import DETECTOR, begin_stage
from trainers.callbacks.pass_checkpoint import PassCheckpoint
from trainers.callbacks.pass_progress import PassProgress
from trainers.data.resize import resize_of
from trainers.evaluation.held_out import held_out_log_likelihood, objective
from trainers.evaluation.split_outputs import split_sample, split_statistics
from trainers.run.file_sizes import file_size_of
from trainers.run.preparation import preparation_in_words
from trainers.run.preprocessing import digest_of, preprocessing_of, split_of
from trainers.run.requirements import require_weights
from trainers.run.run import Run
from trainers.run.strategies import without_gradients

PROBES = 1000  # features that tell one fit from another

log = logging.getLogger(__name__)


def fit(cfg: DictConfig, folder: Path) -> float | None:
    """Fit and calibrate a detector for the classifier of `classifier.checkpoint`; gives the `objective`."""
    require_weights(cfg, "task=fit needs a trained classifier")
    this = Run(cfg, folder)
    this.check()
    return objective(held_out_log_likelihood(this, fit_detector(this)))


def fit_detector(run: Run) -> FailureDetector:
    """Fit the score on the mixture split, calibrate on the calibration split, write `detector.safetensors`."""
    begin_stage(run.folder, "fit")
    detector = run.new_detector()
    detector.preprocessing = preprocessing_of(detector.classifier, resize_of(run.cfg.data.get("source")))
    detector.class_names = run.data.class_names
    images = run.data.training_images
    detector.preprocessing |= split_of(run.cfg.data, images.held_out is not None) | digest_of(images)
    detector.preprocessing |= file_size_of(images, run.data.indices["calibration"])
    log.info("images: %s", preparation_in_words(run.cfg, detector.preprocessing, run.data.image_shape))
    drawn = split_sample(run, detector, "mixture")
    n = len(drawn.outputs.logits)
    if n < drawn.n_given:
        log.info("fit: a random sample of %d images out of %d", n, drawn.n_given)
    if rest := detector.held_out_of(n):
        log.info("fit: mixtures to %d of %d images; the other %d are a reference of the score", n - rest, n, rest)
    kept = run.folder / "em"  # a fit of minutes that is killed goes on from here when it is begun again
    bar = [PassProgress()] if run.cfg.trainer.get("enable_progress_bar", True) else []
    numbers = count(1)  # of the mixtures, in the order in which they are fitted

    def fitter(mixture: GaussianMixture, features: Tensor) -> None:
        sizes = mixture.n_components, mixture.covariance_type, *features.shape
        number = next(numbers)
        name = _part_of(mixture, detector.score)
        log.info("fit mixture %d, of %s: %d components of type %s, %d points of %d features", number, name, *sizes)
        module = MixtureModule(mixture, features, run.em_options, logged_as=f"em/{number}/log_likelihood")
        checkpoint = kept / f"{_digits_of(module)}.ckpt"
        trainer = run.trainer(
            max_epochs=module.em.n_passes,
            callbacks=[PassCheckpoint(checkpoint), *bar],
            use_distributed_sampler=False,
            strategy=without_gradients(run.cfg.trainer.get("strategy", "auto")),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # told once, below, by the names of a run's options
            trainer.fit(module, ckpt_path=checkpoint if checkpoint.exists() else None, weights_only=True)
            mixture.adopt(module.em)
        if not mixture.converged:
            log.warning("mixture of %s: %s", name, module.em.shortfall("mixture.em."))

    detector.fit(drawn.outputs, fitter=fitter, n_given=drawn.n_given)
    del drawn
    calibrate_detector(run, detector)
    detector.save(run.folder / DETECTOR)
    shutil.rmtree(kept, ignore_errors=True)
    log.info("detector: %s", run.folder / DETECTOR)
    for finding in diagnose(detector):
        log.warning("%s", finding)
    return detector


def calibrate_detector(run: Run, detector: FailureDetector) -> None:
    """Calibrate a fitted detector on the calibration split, and take the error rates of its components there."""
    reduced = split_statistics(run, detector, "calibration")
    detector.calibrate(reduced)
    n, n_ranked = len(reduced.prediction), len(detector.calibration)
    if n_ranked < n:
        log.info("calibration: %d of %d images; the other %d are a reference of the score", n_ranked, n, n - n_ranked)
    log.info("calibration, %s: %s", detector.calibration.name, detector.calibration.describe(run.data.class_names))
    detector.component_report(reduced)  # labels serve explanations alone: no verdict depends on them


def _part_of(mixture: GaussianMixture, score: Score) -> str:
    """The name of the innermost part of a score that a mixture is of; that of the score where none has it yet."""
    parts = [part for part in score.modules() if isinstance(part, Score)]
    return [score, *(part for part in parts if any(each is mixture for each in part.modules()))][-1].name


def _digits_of(module: MixtureModule) -> str:
    """Digits that stand for a fit: its mixture, its options and some of its features."""
    mixture, features = module.mixture, module.features
    digest = hashlib.sha256(repr((mixture, tuple(features.shape), module.em.options)).encode())
    rows = torch.linspace(0, len(features) - 1, min(len(features), PROBES)).long()
    digest.update(features[rows.to(features.device)].cpu().double().numpy().tobytes())
    return digest.hexdigest()[:16]
