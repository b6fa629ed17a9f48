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
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.utils.data import DataLoader, Dataset

from gmm_torch.conformal.p_values import calibration_size
from gmm_torch.em.options import EMOptions
from gmm_torch.functional.checks import check_probability
from trainers.attacks import Attack, AttackSweep
from trainers.cache import Cache, shared_cache
from trainers.callbacks import EndOnSigterm, EpochSeeds
from trainers.classifiers.build import build_classifier
from trainers.data.corruptions import Corruption
from trainers.data.datamodule import ImageDataModule
from trainers.data.errors import DataNotFoundError, MissingSetsError
from trainers.data.images import LabelledImages
from trainers.data.ood import build_ood
from trainers.report.tables.benchmark import check_benchmark
from trainers.run.checkpoint_io import AtomicCheckpointIO

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
        return instantiate(self.cfg.data)

    @cached_property
    def classifier(self) -> nn.Module:
        """The classifier, with the checkpoint's weights if the config names one."""
        return build_classifier(self.cfg.classifier, self.data.num_classes, self.data.image_shape)

    @property
    def network(self) -> dict[str, Any]:
        """What a cached result depends on besides the classifier's weights: they say nothing of its code."""
        return {"_target_": self.cfg.classifier.get("_target_")}

    def trainer(self, **changes: Any) -> lightning.Trainer:
        """The configured Trainer, its files in the run's folder."""
        plugins = [AtomicCheckpointIO(), *instantiate(self.cfg.trainer.get("plugins") or [])]
        trainer = instantiate(self.cfg.trainer, default_root_dir=str(self.folder), **{"plugins": plugins, **changes})
        trainer.callbacks.insert(0, EndOnSigterm())  # checkpoints stay the last
        return trainer

    @property
    def training_callbacks(self) -> list[lightning.Callback]:
        """Those of the Trainer, and those of the group `callback`, which watch a training alone."""
        configured = instantiate(self.cfg.trainer.get("callbacks") or [])
        return [
            EpochSeeds(self.cfg.seed),
            *configured,
            *(instantiate(callback) for callback in (self.cfg.get("callback") or {}).values()),
        ]

    def predict(self, module: lightning.LightningModule, loader: DataLoader[Any], what: str) -> list[Any]:
        """What `module` predicts on a loader's batches, on one device; says what is being done when there is much."""
        log.info("%s: %d images", what, len(loader.dataset))  # type: ignore[arg-type]
        return self.predictor(loader, []).predict(module, loader)  # type: ignore[return-value]

    def predictor(self, loader: DataLoader[Any], callbacks: Sequence[Callback]) -> lightning.Trainer:
        """A Trainer for predictions on one device, with a progress bar where there is much to do."""
        return self.trainer(
            devices=1,
            strategy="auto",
            callbacks=list(callbacks),
            enable_checkpointing=False,
            enable_progress_bar=len(loader) > FEW_BATCHES,
        )

    @cached_property
    def em_options(self) -> EMOptions:
        """How the mixtures are fitted."""
        return EMOptions(**OmegaConf.to_container(self.cfg.mixture.em), seed=self.cfg.seed)  # type: ignore[arg-type]

    @cached_property
    def _attacks(self) -> dict[str, Attack | AttackSweep]:
        attacks = {name: instantiate(attack) for name, attack in (self.cfg.get("attack") or {}).items()}
        if self.cfg.attack_limit is not None:
            for attack in attacks.values():
                attack.limit(self.cfg.attack_limit)
        return attacks

    @property
    def attacks(self) -> dict[str, Attack]:
        """The attacks at one budget, by name."""
        return {name: attack for name, attack in self._attacks.items() if isinstance(attack, Attack)}

    @property
    def sweeps(self) -> dict[str, AttackSweep]:
        """The attacks at several budgets, by name."""
        return {name: sweep for name, sweep in self._attacks.items() if isinstance(sweep, AttackSweep)}

    @cached_property
    def corruptions(self) -> dict[str, Corruption]:
        """The corruptions by name."""
        return {name: instantiate(each) for name, each in (self.cfg.get("corruption") or {}).items()}

    @cached_property
    def ood(self) -> dict[str, LabelledImages]:
        """The out-of-distribution sets by name, in the shape of the data."""
        return self._ood(self.data.image_shape)

    def _ood(self, image_shape: Sequence[int]) -> dict[str, LabelledImages]:
        cfg = self.cfg
        return build_ood(cfg.get("ood"), image_shape, cfg.seed, cfg.ood_limit, cfg.missing_data != "error")

    @cached_property
    def cache(self) -> Cache | None:
        """What jobs share, if they do."""
        return shared_cache(self.cfg)

    def check(self) -> None:
        """Raise now what would go wrong after the long work."""
        check_probability("alpha", self.cfg.alpha)
        instantiate(self.cfg.score, _convert_="all")
        if self.cfg.missing_data not in MISSING_DATA:
            raise ValueError(f"missing_data must be one of {', '.join(MISSING_DATA)}, got {self.cfg.missing_data!r}")
        if self.cfg.get("benchmark") is not None:
            check_benchmark(self.cfg.benchmark, list(self.cfg.get("ood") or {}))
        _ = self.em_options, self._attacks, self.corruptions
        self._find_data()
        needed, given = calibration_size(self.cfg.alpha), len(self.data.indices["calibration"])
        if given < needed:
            raise ValueError(
                f"calibration set: alpha={self.cfg.alpha:g} needs at least {needed} images; the split has {given}: "
                "lower data.calibration_every, or choose a larger alpha"
            )

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
        return self.trainer(devices=1, strategy="auto", callbacks=[]).strategy.root_device

    def loader(self, dataset: Dataset[Any]) -> DataLoader[Any]:
        """Batches of a dataset, in order."""
        return DataLoader(dataset, batch_size=self.data.batch_size, num_workers=self.data.num_workers)
