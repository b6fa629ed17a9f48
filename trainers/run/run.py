"""One run of the application."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.utils.data import DataLoader, Dataset

from gmm_torch.checks import check_choice, check_probability
from gmm_torch.conformal.calibration import Calibration
from gmm_torch.conformal.p_values import calibration_size
from gmm_torch.detector import FailureDetector
from gmm_torch.mixture.options import EMOptions
from trainers.attacks import Attack, AttackBudgets
from trainers.cache import Cache, shared_cache
from trainers.classifiers.build import build_classifier
from trainers.classifiers.preprocessing import known_classes
from trainers.data.corruptions import Corruption
from trainers.data.datamodule import ImageDataModule
from trainers.data.errors import DataNotFoundError, MissingSetsError
from trainers.data.images import LabelledImages
from trainers.data.ood import build_ood
from trainers.data.shifts import Shift
from trainers.report.tables.benchmark import check_benchmark
from trainers.run.requirements import is_weighted, naming, require_optimizer
from trainers.run.trainer import make_trainer

log = logging.getLogger(__name__)

MISSING_DATA = ("error", "leave_out", "skip")
FEW_BATCHES = 20  # are scored before a progress bar could be read


@dataclass
class Run:
    """One run of the application: its config, its folder, and what its tasks hand to each other."""

    cfg: DictConfig
    folder: Path

    @cached_property
    def data(self) -> ImageDataModule:
        """The data module; reads nothing yet."""
        by_name = self.cfg.data.get("label_by") == "name"
        return instantiate(self.cfg.data, **({"model_classes": known_classes(self.cfg.classifier)} if by_name else {}))

    @cached_property
    def classifier(self) -> nn.Module:
        """The classifier, with the checkpoint's weights if the config names one, else with those of the run's seed."""
        lightning.seed_everything(self.cfg.seed, workers=True, verbose=False)
        return build_classifier(self.cfg.classifier, self.data.num_classes, self.data.image_shape)

    @property
    def network(self) -> dict[str, Any]:
        """What a cached result depends on besides the weights, which say nothing of the code and its options."""
        options: dict[str, Any] = OmegaConf.to_container(self.cfg.classifier, resolve=True)  # type: ignore[assignment]
        return {name: value for name, value in options.items() if name != "checkpoint"}

    def new_detector(self) -> FailureDetector:
        """A detector of the classifier, as the config has it."""
        with naming("detector"):
            return instantiate(self.cfg.detector, classifier=self.classifier, calibration=self._calibration_from_data)

    def new_calibration(self) -> Calibration:
        """A calibration without scores, as the config has it."""
        with naming("detector.calibration"):
            return instantiate(self.cfg.detector.calibration, **self._calibration_from_data)

    @property
    def _calibration_from_data(self) -> dict[str, int]:
        """What the data know of the calibration, and the config does not say: the number of classes."""
        calibration = self.cfg.detector.calibration
        unknown = "n_classes" in calibration and calibration.n_classes is None
        return {"n_classes": self.data.num_classes} if unknown else {}

    @cached_property
    def loggers(self) -> list[Logger]:
        """The loggers of all Trainers of the run, which so write one version."""
        return list(self._made("logger", save_dir=str(self.folder)).values())

    @cached_property
    def informed_loggers(self) -> list[Logger]:
        """The loggers, once each has the config as its hyperparameters: from then on there is something of this run."""
        config: dict[str, Any] = OmegaConf.to_container(self.cfg, resolve=True)  # type: ignore[assignment]
        for logger in self.loggers:
            logger.log_hyperparams(config)
        return self.loggers

    @cached_property
    def callbacks(self) -> list[Callback]:
        """The callbacks of the config."""
        return list(self._made("callbacks").values())

    def trainer(self, **changes: Any) -> lightning.Trainer:
        """A Trainer for one fit: a Trainer goes on counting its epochs."""
        return make_trainer(self.cfg.trainer, self.folder, **{"logger": self.informed_loggers or False, **changes})

    @cached_property
    def predictor(self) -> lightning.Trainer:
        """The Trainer of all predictions of the run, on one device."""
        return self.trainer(devices=1, strategy="auto", enable_checkpointing=False)

    def predict(self, module: lightning.LightningModule, loader: DataLoader[Any], what: str) -> list[Any]:
        """What `module` predicts on a loader's batches, on one device; says what is being done."""
        log.info("%s: %d images", what, len(loader.dataset))  # type: ignore[arg-type]
        bar = self.predictor.progress_bar_callback
        if bar is not None:
            (bar.enable if len(loader) > FEW_BATCHES else bar.disable)()
        return self.predictor.predict(module, loader)  # type: ignore[return-value]

    @cached_property
    def em_options(self) -> EMOptions:
        """How the mixtures are fitted."""
        options: dict[str, Any] = OmegaConf.to_container(self.cfg.mixture.em)  # type: ignore[assignment]
        with naming("mixture.em"):
            return EMOptions(**options | {"seed": self.cfg.seed})

    @cached_property
    def _attacks(self) -> dict[str, Attack | AttackBudgets]:
        attacks = self._made("attack")
        if self.cfg.limit.attack is not None:
            for attack in attacks.values():
                attack.limit(self.cfg.limit.attack)
        return attacks

    @property
    def attacks(self) -> dict[str, Attack]:
        """The attacks at one budget, by name."""
        return {name: attack for name, attack in self._attacks.items() if isinstance(attack, Attack)}

    @property
    def attack_budgets(self) -> dict[str, AttackBudgets]:
        """The attacks at several budgets, by name."""
        return {name: each for name, each in self._attacks.items() if isinstance(each, AttackBudgets)}

    @cached_property
    def corruptions(self) -> dict[str, Corruption]:
        """The corruptions by name."""
        return self._made("corruption")

    @cached_property
    def shifts(self) -> dict[str, Shift]:
        """The shifts by name."""
        return self._made("shift")

    @cached_property
    def ood(self) -> dict[str, LabelledImages]:
        """The out-of-distribution sets by name, in the shape of the data."""
        return self._ood(self.data.image_shape)

    def _ood(self, image_shape: Sequence[int]) -> dict[str, LabelledImages]:
        cfg = self.cfg
        return build_ood(cfg.get("ood"), image_shape, cfg.seed, cfg.limit.ood, cfg.missing_data != "error")

    @cached_property
    def cache(self) -> Cache | None:
        """What jobs share, if they do."""
        return shared_cache(self.cfg)

    def _made(self, group: str, **options: Any) -> dict[str, Any]:
        """What the nodes of a group make, by name."""
        return {name: instantiate(node, **options) for name, node in (self.cfg.get(group) or {}).items()}

    def check(self) -> None:
        """Raise now what would go wrong after the long work."""
        alpha = self.cfg.detector.alpha
        check_probability("detector.alpha", alpha)
        check_choice("missing_data", self.cfg.missing_data, MISSING_DATA)
        if self.cfg.get("benchmark") is not None:
            check_benchmark(self.cfg.benchmark, list(self.cfg.get("ood") or {}))
        if self.cfg.training:
            require_optimizer(self.cfg.optimizer)
        _ = self.em_options, self._attacks, self.corruptions, self.shifts, self.callbacks, self.loggers, self.device
        self._find_data()
        if is_weighted(self.cfg):
            raise ValueError(
                "calibration: expected one that needs no images from elsewhere before a detector is fitted; got "
                f"{self.cfg.detector.calibration._target_}: fit with another, then score such images with "
                "task=score checkpoint=... calibration=weighted"
            )
        needed, given = calibration_size(alpha), len(self.data.indices["calibration"])
        if given < needed:
            raise ValueError(
                f"calibration set: expected at least {needed} images for alpha={alpha:g}; got {given}: "
                "lower data.calibration_every, or choose a larger detector.alpha"
            )
        self.new_detector()

    def _find_data(self) -> None:
        """Read all data; one error names all that are missing."""
        try:
            _ = self.data.test_images
        except DataNotFoundError as error:
            missing = {"data": error}
            try:
                self._ood(self.cfg.data.image_shape or (3, 32, 32))
            except MissingSetsError as others:
                missing |= others.errors
            raise MissingSetsError(missing) from error
        _ = self.ood

    @property
    def device(self) -> torch.device:
        """Where the configured Trainer computes."""
        return self.predictor.strategy.root_device

    def loader(self, dataset: Dataset[Any]) -> DataLoader[Any]:
        """Batches of a dataset, in order."""
        return DataLoader(dataset, batch_size=self.data.batch_size, num_workers=self.data.num_workers)
