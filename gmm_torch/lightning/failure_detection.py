"""A callback of a Trainer that fits, calibrates, evaluates, logs and saves a detector of failures."""

import pickle
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from gmm_torch.checks import check_count
from gmm_torch.detector import FailureDetector
from gmm_torch.detector.file import read
from gmm_torch.detector.weights import fingerprint
from gmm_torch.distributed import is_distributed
from gmm_torch.errors import FileFormatError, NotFittedError
from gmm_torch.evaluation.detection import check_sources, measure
from gmm_torch.features.inputs import check_loader, inputs_of, labels_of
from gmm_torch.features.modes import evaluating
from gmm_torch.lightning.sources import Source, asked_for, named_sources, train_source

_NAME = "detector.safetensors"
_SHARDED = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)
_TRAIN, _VALIDATION = "train_dataloader", "val_dataloader"


class FailureDetection(Callback):
    """Fits and calibrates a `FailureDetector` of the module's classifier, and logs how well it finds failures.

    It does so when training ends, or every few epochs. `Trainer.validate` and `Trainer.test` evaluate the detector of
    their weights: the present one, the one in or next to the checkpoint, or else one fitted then. Training is the same
    as without it, random states included. Put it last among the callbacks that change weights.

    `docs/lightning.md` lists what is logged for each validation and test loader: `detection/val/accuracy`,
    `detection/val/errors/auroc` and so on. Undefined metrics, because no prediction is wrong or none is right, are NaN,
    which `ModelCheckpoint` ranks last. Out-of-distribution metrics are logged with the first loader of a stage.

    A DataLoader over a data set with a length and without a custom sampler is read again, each input once: in order,
    not shuffled, nothing dropped, and shared among the processes without repeating any. Others are read as they are,
    and in several processes should give each its share. Batches are (x, label, ...), or mappings with labels.

    Args:
        calibration: held-out inputs, neither trained on, fitted to nor evaluated: a loader; the name of a method of the
            data module or module that gives one; or k, for every k-th input of the first validation loader, which is
            then evaluated on the others.
        fitting: inputs to fit the mixtures to: a loader, or the name of such a method. By default those that the
            classifier is trained on, as the train loader transforms them.
        ood: name -> out-of-distribution inputs, as a loader or such a name.
        classifier: the attribute of the module that gives logits, `net` or `net.backbone`; by default the module.
        every_n_epochs: also fit, and log to the Trainer's `callback_metrics`, at the end of every n-th epoch.
        detector: makes a detector of a classifier; `partial(FailureDetector, n_components=5)` for options.

    Raises:
        ValueError: an option out of range, a name of `ood` that is taken.
        TypeError: no loader, no name and no number; a detector in place of a function that makes one.

    Raises, as soon as the Trainer starts:
        AttributeError: no such attribute.
        TypeError: a method gives no loader.
        ValueError: no such method or loader; no logits; calibration inputs too few for `alpha`, or, by their place in a
            data set, among those fitted to, trained on or evaluated.
    """

    def __init__(
        self,
        calibration: str | int | Iterable[Any] = "calibration_dataloader",
        *,
        fitting: str | Iterable[Any] = _TRAIN,
        ood: dict[str, str | Iterable[Any]] | None = None,
        classifier: str | None = None,
        every_n_epochs: int | None = None,
        detector: Callable[[nn.Module], FailureDetector] = FailureDetector,
    ) -> None:
        super().__init__()
        if isinstance(calibration, int):
            check_count("calibration", calibration, at_least=2)
        if every_n_epochs is not None:
            check_count("every_n_epochs", every_n_epochs)
        check_sources(ood)
        of_ood = {f"ood[{name!r}]": loader for name, loader in (ood or {}).items()}
        for name, loader in {"calibration": calibration, "fitting": fitting, **of_ood}.items():
            if not isinstance(loader, str | int):
                check_loader(loader, name)
        if isinstance(detector, nn.Module):
            raise TypeError(
                f"detector: expected a function that makes one; got a {type(detector).__name__}: give "
                "partial(FailureDetector, ...) with its options"
            )
        self.calibration, self.fitting, self.ood = calibration, fitting, dict(ood or {})
        self._fits_training_inputs = isinstance(fitting, str) and fitting == _TRAIN
        self.attribute = classifier
        self.every_n_epochs = every_n_epochs
        self.make = detector
        self._detector: FailureDetector | None = None
        self._mark: dict[str, str] = {}  # fingerprint of the detector's classifier
        self._file: Tensor | None = None  # its file, or one out of a checkpoint, (B,) uint8
        self._sources: tuple[Source, Source] | None = None  # to fit and to calibrate with, in this process
        self._written: set[Path] = set()  # checkpoints with a detector file

    @property
    def detector(self) -> FailureDetector:
        """The last detector, on its classifier's device.

        Raises:
            NotFittedError: there is none yet.
        """
        if self._detector is None:
            raise NotFittedError("FailureDetection: no detector yet: run Trainer.fit, validate or test with it first")
        return self._detector.to(self._detector.device)

    # ---- hooks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check strategy and classifier.

        Raises:
            ValueError: each process has only a part of the classifier, or the module has no forward.
        """
        if isinstance(trainer.strategy, _SHARDED):
            raise ValueError(
                "strategy: expected one that keeps the whole classifier in each process, such as ddp; got "
                f"{type(trainer.strategy).__name__}: fit a FailureDetector after the training"
            )
        if self._classifier(pl_module) is pl_module and type(pl_module).forward is LightningModule.forward:
            raise ValueError(
                f"classifier: expected {type(pl_module).__name__} to have a forward; it has none: name the attribute "
                "that gives logits"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check classifier and loaders, before the first step."""
        if trainer.val_dataloaders is None and trainer.enable_validation:  # not every epoch validates
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.setup_data()
            trainer.training = True
        self._check(trainer, pl_module, "val")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last epoch's detector next to the checkpoints of that epoch."""
        self._save(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit and log, every few epochs."""
        every = self.every_n_epochs
        if every is None or (trainer.current_epoch + 1) % every or _rehearses(trainer):
            return
        if not self._find(trainer, pl_module):
            self._learn(trainer, pl_module)
        pl_module.log_dict(self._evaluate(trainer, pl_module, "val"), sync_dist=trainer.world_size > 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit, log and save, unless the last epoch has done so."""
        if _rehearses(trainer):
            return
        if not self._find(trainer, pl_module):
            self._learn(trainer, pl_module)
            found = self._evaluate(trainer, pl_module, "val")
            trainer.callback_metrics.update({name: torch.tensor(value) for name, value in found.items()})
            for logger in trainer.loggers if found else ():
                logger.log_metrics(found, step=trainer.global_step)
        self._save(trainer, pl_module, last=True)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find or fit the detector of these weights, in `Trainer.validate` and `Trainer.test`."""
        if trainer.state.fn is TrainerFn.FITTING:
            return
        stage = _stage(trainer)
        if self._find(trainer, pl_module):
            if self._sources is not None:
                self._check_disjoint(self._sources[1], self._evaluated(trainer, stage))
            return
        self._check(trainer, pl_module, stage)
        if not _rehearses(trainer):
            self._learn(trainer, pl_module)
            if trainer.ckpt_path and trainer.is_global_zero:
                self.detector.save(_beside(trainer.ckpt_path))

    on_test_start = on_validation_start

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate and log, in `Trainer.validate` and `Trainer.test`."""
        if trainer.state.fn is not TrainerFn.FITTING and not _rehearses(trainer):
            found = self._evaluate(trainer, pl_module, _stage(trainer))
            pl_module.log_dict(found, sync_dist=trainer.world_size > 1)

    on_test_epoch_end = on_validation_epoch_end

    def state_dict(self) -> dict[str, Any]:
        """The last detector's file, as bytes, with its classifier's fingerprint."""
        return {} if self._file is None else {"detector": self._file}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the detector's file for a classifier of its weights."""
        self._file = state_dict.get("detector")

    # ---- steps

    def _classifier(self, module: LightningModule) -> nn.Module:
        return module if self.attribute is None else attrgetter(self.attribute)(module)

    def _find(self, trainer: Trainer, module: LightningModule) -> bool:
        """True if a detector of the present weights is in memory, in the checkpoint or next to it."""
        classifier = self._classifier(module)
        if is_distributed():  # buffers such as running statistics differ until the next common pass
            for buffer in classifier.buffers():
                dist.broadcast(buffer, 0)
        mark = fingerprint(classifier)
        if self._detector is not None and self._mark == mark:
            return True
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / _NAME]
            if self._file is not None:
                paths[0].write_bytes(self._file.numpy().tobytes())
            if trainer.ckpt_path:
                paths.append(_beside(trainer.ckpt_path))
            found = next((i for i, path in enumerate(paths) if _is_of(path, mark)), None)
            found = trainer.strategy.broadcast(found)
            if found is not None:
                self._keep(FailureDetector.load(paths[found], classifier), mark)
        return found is not None

    def _keep(self, detector: FailureDetector, mark: dict[str, str]) -> None:
        self._detector, self._mark = detector, mark
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / _NAME
            detector.save(path)
            self._file = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)

    def _learn(self, trainer: Trainer, module: LightningModule) -> None:
        """Fit and calibrate a detector of the present weights."""
        classifier = self._classifier(module)
        detector = self.make(classifier)
        fitting, calibration = self._learned_from(trainer, module)
        with _aside(trainer, module, detector.seed):
            detector.fit(_on_device(trainer, fitting))
            detector.calibrate(_on_device(trainer, calibration))
        self._keep(detector, fingerprint(classifier))

    def _evaluate(self, trainer: Trainer, module: LightningModule, stage: str) -> dict[str, float]:
        values: dict[str, float] = {}
        ood = {name: asked_for(trainer, module, "ood", loader) for name, loader in self.ood.items()}
        with _aside(trainer, module, self.detector.seed):
            for name, source in self._evaluated(trainer, stage).items():
                others = {} if values else {key: _on_device(trainer, Source.of(each)) for key, each in ood.items()}
                found = measure(self.detector, _on_device(trainer, source), others)
                # NaN included: without a value the last epoch's would stand
                values |= {f"detection/{name}/{key}": value for key, value in found.items()}
        return values

    def _save(self, trainer: Trainer, module: LightningModule, *, last: bool = False) -> None:
        """Save the detector next to the checkpoints of its weights; at last, without one, in the Trainer's folder."""
        if self._detector is None or _rehearses(trainer):
            return
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # asks all processes
        if not trainer.is_global_zero or fingerprint(self._classifier(module)) != self._mark:
            return
        for checkpoint in [each for each in self._written if not each.is_file()]:
            self._written.remove(checkpoint)
            _beside(checkpoint).unlink(missing_ok=True)
        matching = [each for each in _checkpoints(trainer) if _holds(each, module)]
        self._written.update(matching)
        paths = [_beside(each) for each in matching]
        for path in paths or ([folder / _NAME] if last else []):
            self._detector.save(path)

    def _learned_from(self, trainer: Trainer, module: LightningModule) -> tuple[Source, Source]:
        """Inputs to fit and to calibrate with; a Trainer that evaluates has forgotten the loaders of its training."""
        if self._sources is None or trainer.state.fn is TrainerFn.FITTING:
            fitting = train_source(trainer, limited=True) if self._fits_training_inputs else None
            if fitting is None:
                fitting = Source.of(asked_for(trainer, module, "fitting", self.fitting))
            if isinstance(self.calibration, int):  # the fallback is for a test in a new process
                sources = _evaluated_on(trainer, "val") or named_sources(
                    asked_for(trainer, module, "calibration", _VALIDATION), "val"
                )
                calibration = next(iter(sources.values())).split(self.calibration)[0]
            else:
                calibration = Source.of(asked_for(trainer, module, "calibration", self.calibration))
            self._sources = fitting, calibration
        return self._sources

    def _evaluated(self, trainer: Trainer, stage: str) -> dict[str, Source]:
        """Inputs to evaluate, by name, without those that calibrate."""
        found = _evaluated_on(trainer, stage)
        if stage == "val" and isinstance(self.calibration, int) and found:
            first = next(iter(found))
            found[first] = found[first].split(self.calibration)[1]
        return found

    def _check(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Raise for wrong loaders or a wrong classifier before any work."""
        fitting, calibration = self._learned_from(trainer, module)
        evaluated = self._evaluated(trainer, stage)
        others = {"fitting": fitting, **evaluated}
        if not self._fits_training_inputs and (train := train_source(trainer, limited=False)) is not None:
            others["train"] = train
        self._check_disjoint(calibration, others)
        for each in self.ood.values():
            asked_for(trainer, module, "ood", each)
        with _aside(trainer, module, 0):
            detector = self.make(self._classifier(module))
            if calibration.rows is not None and not _rehearses(trainer):
                detector.calibration.require(detector.alpha, len(calibration.rows))
            for source in (calibration, *evaluated.values()):
                for batch in islice(_on_device(trainer, source), 1):
                    extractor = detector.extractor
                    extractor(inputs_of(batch, extractor.adapter), extractor.views[:1])
                    if source is not calibration:
                        labels_of(batch, extractor.adapter)

    @staticmethod
    def _check_disjoint(calibration: Source, others: dict[str, Source]) -> None:
        for name, source in others.items():
            if n := calibration.n_shared(source):
                raise ValueError(
                    f"calibration: expected inputs that are neither trained on, fitted to nor evaluated; {n} of them "
                    f"are among those of the {name} loader: give others"
                )


def _stage(trainer: Trainer) -> str:
    """Prefix of the values that a Trainer which evaluates logs."""
    return "test" if trainer.testing else "val"


def _rehearses(trainer: Trainer) -> bool:
    """True in a `fast_dev_run`: too few batches to calibrate, and nothing is logged or saved."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def _evaluated_on(trainer: Trainer, stage: str) -> dict[str, Source]:
    """Inputs that the Trainer validates ("val") or tests ("test") on, by name, up to its limit."""
    if stage == "val":
        loaders, limits = trainer.val_dataloaders, trainer.num_val_batches
    else:
        loaders, limits = trainer.test_dataloaders, trainer.num_test_batches
    return {} if loaders is None else named_sources(loaders, stage, limits, trainer.world_size)


def _on_device(trainer: Trainer, source: Source) -> Iterator[Any]:
    """Batches as the steps of the module get them: through all hooks, on its device."""
    for batch in source.batches():
        converted = trainer.precision_plugin.convert_input(batch)
        converted = trainer.lightning_module._on_before_batch_transfer(converted)
        yield trainer.strategy.batch_to_device(converted, dataloader_idx=0)


@contextmanager
def _aside(trainer: Trainer, module: LightningModule, seed: int) -> Iterator[None]:
    """Passes of the classifier that leave the training as it is.

    Within, the module is in evaluation mode, the Trainer validates (which hooks of data may ask for), precision is the
    Trainer's, and random states begin from `seed`; afterwards modes and random states are restored. Compiled code is
    not run: hooks do not reach it.
    """
    stage = trainer.state.stage
    with ExitStack() as stack:
        for context in (isolate_rng(), evaluating(module), torch.no_grad()):
            stack.enter_context(context)
        if hasattr(torch.compiler, "set_stance"):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        plugin = trainer.precision_plugin
        if isinstance(plugin, MixedPrecision):  # others set a default type, which the detector's arithmetic is not for
            stack.enter_context(plugin.forward_context())
        torch.manual_seed(seed)
        random.seed(seed)
        try:
            if stage is not RunningStage.TESTING:
                trainer.state.stage = RunningStage.VALIDATING
            yield
        finally:
            trainer.state.stage = stage


# ---- files


def _beside(checkpoint: str | Path) -> Path:
    """`epoch=3.ckpt` -> `epoch=3.detector.safetensors`."""
    return Path(checkpoint).with_suffix(f".{_NAME}")


def _is_of(path: Path, mark: dict[str, str]) -> bool:
    """True if a readable detector file is there, for the classifier of a fingerprint."""
    try:
        return path.is_file() and read(path)[0].classifier.model_dump() == mark
    except FileFormatError:  # another version's, or damaged: a detector is fitted again
        return False


def _checkpoints(trainer: Trainer) -> list[Path]:
    """The files that the Trainer's checkpoint callbacks have written and kept."""
    found: dict[Path, None] = {}
    for callback in trainer.checkpoint_callbacks:
        state = callback.state_dict()
        paths = (state.get("last_model_path"), state.get("best_model_path"), *(state.get("best_k_models") or ()))
        found |= dict.fromkeys(Path(path) for path in paths if path)
    return [path for path in found if path.is_file()]


def _holds(checkpoint: Path, module: LightningModule) -> bool:
    """True if a checkpoint has the module's weights; False if it can't be read without running its code."""
    try:
        stored = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    except (pickle.UnpicklingError, KeyError):
        return False
    own = module.state_dict()
    return stored.keys() == own.keys() and all(
        not isinstance(value, Tensor) or torch.equal(value, own[name].cpu()) for name, value in stored.items()
    )
