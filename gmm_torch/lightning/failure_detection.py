"""A detector of failures that a Trainer fits, calibrates, evaluates, logs and saves."""

import math
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from gmm_torch.detector import FailureDetector
from gmm_torch.detector.weights import fingerprint
from gmm_torch.errors import NotFittedError
from gmm_torch.evaluation.detection import check_sources, measure
from gmm_torch.features.adapter import Adapter, logits_of, understood
from gmm_torch.features.inputs import Inputs, check_loader, inputs_of, labels_of, run
from gmm_torch.files import atomic_path
from gmm_torch.lightning.files import NAME, beside, checkpoints, find, from_bytes, holds, to_bytes
from gmm_torch.lightning.inputs import Source
from gmm_torch.lightning.loaders import TRAIN, VALIDATION, asked_for, by_name, evaluated_on, trained_on
from gmm_torch.lightning.surroundings import aside, classifier_of, on_device, rehearses, share_buffers

SHARDED = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)


class FailureDetection(Callback):
    """Fits and calibrates a `FailureDetector` of the module's classifier, and logs how well it finds failures.

    It does so when training ends, or every few epochs; `Trainer.validate` and `Trainer.test` evaluate the detector of
    the weights that they have: the one at hand, the one in or beside the checkpoint, or else one fitted then. Training
    goes on as without it, random states included. Put it last among the callbacks that change weights.

    `docs/lightning.md` lists what is logged for each validation and test loader: `detection/val/accuracy`,
    `detection/val/errors/auroc` and so on. What is undefined, since no prediction is
    wrong or none is right, is NaN, which `ModelCheckpoint` ranks last; what is out of distribution stands beside the
    first loader of a stage.

    A DataLoader over a data set with a length, with no sampler of one's own, is read anew, each input once: in order,
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
        every_n_epochs: also fit, and log to the Trainer's `callback_metrics`, whenever so many epochs have ended.
        detector: makes a detector of a classifier; `partial(FailureDetector, n_components=5)` for options.

    Raises:
        ValueError: an option out of range, a name of `ood` that is taken.
        TypeError: no loader, no name and no number; a detector in place of what makes one.

    Raises, as soon as the Trainer starts:
        TypeError: a method gives no loader.
        ValueError: no such attribute, method or loader; no logits; calibration inputs too few for `alpha`, or, by their
            place in a data set, among those fitted to, trained on or evaluated.
    """

    def __init__(
        self,
        calibration: str | int | Iterable[Any] = "calibration_dataloader",
        *,
        fitting: str | Iterable[Any] = TRAIN,
        ood: dict[str, str | Iterable[Any]] | None = None,
        classifier: str | None = None,
        every_n_epochs: int | None = None,
        detector: Callable[[nn.Module], FailureDetector] = FailureDetector,
    ) -> None:
        super().__init__()
        if isinstance(calibration, float) or (isinstance(calibration, int) and calibration < 2):
            raise ValueError(
                "calibration: expected a loader, a method's name or, for every k-th input, an integer k >= 2; got "
                f"{calibration}: give 2 for half, 3 for a third"
            )
        if every_n_epochs is not None and every_n_epochs < 1:
            raise ValueError(f"every_n_epochs: expected a number >= 1, or None; got {every_n_epochs}")
        check_sources(ood)
        loaders = {"calibration": calibration, "fitting": fitting} | {
            f"ood[{name!r}]": each for name, each in (ood or {}).items()
        }
        for name, loader in loaders.items():
            if not isinstance(loader, str | int):
                check_loader(loader, name)
        if isinstance(detector, nn.Module) or not callable(detector):
            raise TypeError(
                f"detector: expected what makes one of a classifier; got a {type(detector).__name__}: give "
                "partial(FailureDetector, ...) with its options"
            )
        self.calibration, self.fitting, self.ood = calibration, fitting, dict(ood or {})
        self.attribute = classifier
        self.every_n_epochs = every_n_epochs
        self.make = detector
        self._detector: FailureDetector | None = None
        self._mark: dict[str, str] = {}  # of the classifier that it was fitted to
        self._file: Tensor | None = None  # it, or one out of a checkpoint, as the bytes of a detector file
        self._sources: tuple[Source, Source] | None = None  # to fit and to calibrate with, in this process
        self._written: dict[Path, Path] = {}  # checkpoint -> detector file

    @property
    def detector(self) -> FailureDetector:
        """The last detector, where its classifier is now.

        Raises:
            NotFittedError: there is none yet.
        """
        if self._detector is None:
            raise NotFittedError("FailureDetection: no detector yet: run Trainer.fit, validate or test with it first")
        return self._detector.to(self._detector.device)

    # ---- hooks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look for the classifier, before anything is done.

        Raises:
            ValueError: it is not there, or not as a whole in each process.
        """
        if isinstance(trainer.strategy, SHARDED):
            raise ValueError(
                "strategy: expected one that keeps the whole classifier in each process, such as ddp; got "
                f"{type(trainer.strategy).__name__}: fit a FailureDetector after the training"
            )
        classifier_of(pl_module, self.attribute)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check classifier and loaders, before the first step."""
        if trainer.val_dataloaders is None and trainer.enable_validation:  # not every epoch validates
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.setup_data()
            trainer.training = True
        with aside(trainer, pl_module, 0):
            self._check(trainer, pl_module, "val")
        if self._fits_training_inputs:
            rank_zero_info(
                "FailureDetection: the mixtures are fitted to the inputs that the classifier is trained on, as the "
                "train loader transforms them; give fitting=... for others"
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last epoch's detector beside the checkpoints of that epoch."""
        self._save(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit and log, every few epochs."""
        every = self.every_n_epochs
        if every is None or (trainer.current_epoch + 1) % every or rehearses(trainer):
            return
        if not self._find(trainer, pl_module):
            self._learn(trainer, pl_module)
        pl_module.log_dict(self._evaluate(trainer, pl_module, "val"), sync_dist=trainer.world_size > 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit, log and save, unless the last epoch has done so."""
        if rehearses(trainer):
            return
        if not self._find(trainer, pl_module):
            self._learn(trainer, pl_module)
            found = self._evaluate(trainer, pl_module, "val")
            trainer.callback_metrics.update({name: torch.tensor(value) for name, value in found.items()})
            for logger in trainer.loggers if found else ():
                logger.log_metrics(found, step=trainer.global_step)
        self._save(trainer, pl_module, last=True)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """For `Trainer.validate` and `Trainer.test`: make sure that there is a detector of these weights."""
        if trainer.state.fn is TrainerFn.FITTING:
            return
        stage = _stage(trainer)
        if self._find(trainer, pl_module):
            if self._sources is not None:
                self._check_disjoint(self._sources[1], self._evaluated(trainer, stage))
            return
        with aside(trainer, pl_module, 0):
            self._check(trainer, pl_module, stage)
        if not rehearses(trainer):
            self._learn(trainer, pl_module)
            if trainer.ckpt_path and trainer.is_global_zero:
                self._write(beside(trainer.ckpt_path))

    on_test_start = on_validation_start

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate and log, in `Trainer.validate` and `Trainer.test`."""
        if trainer.state.fn is not TrainerFn.FITTING and not rehearses(trainer):
            found = self._evaluate(trainer, pl_module, _stage(trainer))
            pl_module.log_dict(found, sync_dist=trainer.world_size > 1)

    on_test_epoch_end = on_validation_epoch_end

    def state_dict(self) -> dict[str, Any]:
        """The last detector's file, as bytes: it says which weights it is for."""
        return {} if self._file is None else {"detector": self._file}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the detector until a classifier of its weights is there."""
        self._file = state_dict.get("detector")

    # ---- what they do

    def _find(self, trainer: Trainer, module: LightningModule) -> bool:
        """True if a detector of the present weights exists: in memory, in the checkpoint or next to it."""
        classifier = classifier_of(module, self.attribute)
        share_buffers(classifier)
        mark = fingerprint(classifier)
        if self._detector is not None and self._mark == mark:
            return True
        content = None
        if trainer.is_global_zero:  # files may be on its machine alone
            known: list[Tensor | Path] = [] if self._file is None else [self._file]
            content = find(known + ([beside(trainer.ckpt_path)] if trainer.ckpt_path else []), mark)
        content = trainer.strategy.broadcast(content)
        if content is not None:
            self._detector, self._mark, self._file = from_bytes(content, classifier), mark, content
        return content is not None

    def _learn(self, trainer: Trainer, module: LightningModule) -> None:
        """Fit and calibrate a detector of the present weights."""
        classifier = classifier_of(module, self.attribute)
        detector = self.make(classifier)
        fitting, calibration = self._learned_from(trainer, module)
        with aside(trainer, module, detector.seed):
            detector.fit(on_device(trainer, module, fitting.batches()))
            detector.calibrate(on_device(trainer, module, calibration.batches()))
        self._detector, self._mark, self._file = detector, fingerprint(classifier), to_bytes(detector)

    def _evaluate(self, trainer: Trainer, module: LightningModule, stage: str) -> dict[str, float]:
        values: dict[str, float] = {}
        ood = {name: asked_for(trainer, module, "ood", loader) for name, loader in self.ood.items()}
        with aside(trainer, module, self.detector.seed):
            for name, source in self._evaluated(trainer, stage).items():
                others = {} if values else ood
                found = measure(
                    self.detector,
                    on_device(trainer, module, source.batches()),
                    {name: on_device(trainer, module, Source.of(each).batches()) for name, each in others.items()},
                )
                for key, value in found.items():  # without a value the last epoch's would stand
                    values[f"detection/{name}/{key}"] = math.nan if value is None else value
        return values

    def _save(self, trainer: Trainer, module: LightningModule, *, last: bool = False) -> None:
        """Write the detector beside the checkpoints of its weights; at last, without one, in the Trainer's folder."""
        if self._detector is None or rehearses(trainer):
            return
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # asks all processes
        if not trainer.is_global_zero or fingerprint(classifier_of(module, self.attribute)) != self._mark:
            return
        found = checkpoints(trainer)
        for checkpoint in [each for each in self._written if not each.is_file()]:
            self._written.pop(checkpoint).unlink(missing_ok=True)
        matching = [each for each in found if holds(each, module)]
        for checkpoint in matching:
            self._written[checkpoint] = beside(checkpoint)
            self._write(beside(checkpoint))
        if last and not matching:
            self._write(folder / NAME)

    def _write(self, path: Path) -> None:
        assert self._file is not None
        with atomic_path(path) as temporary:
            temporary.write_bytes(self._file.numpy().tobytes())

    # ---- loaders

    def _learned_from(self, trainer: Trainer, module: LightningModule) -> tuple[Source, Source]:
        """What to fit and to calibrate with; a Trainer that evaluates has forgotten the loaders of its training."""
        if self._sources is None or trainer.state.fn is TrainerFn.FITTING:
            fitting = trained_on(trainer, limited=True) if self._fits_training_inputs else None
            if fitting is None:
                fitting = Source.of(asked_for(trainer, module, "fitting", self.fitting))
            self._sources = fitting, self._calibration(trainer, module)
        return self._sources

    @property
    def _fits_training_inputs(self) -> bool:
        return isinstance(self.fitting, str) and self.fitting == TRAIN

    def _calibration(self, trainer: Trainer, module: LightningModule) -> Source:
        if not isinstance(self.calibration, int):
            return Source.of(asked_for(trainer, module, "calibration", self.calibration))
        sources = evaluated_on(trainer, "val")
        if not sources:  # a test in a process of its own
            sources = by_name(asked_for(trainer, module, "calibration", VALIDATION), "val")
        return next(iter(sources.values())).split(self.calibration)[0]

    def _evaluated(self, trainer: Trainer, stage: str) -> dict[str, Source]:
        """What is evaluated, by name: what calibrates is not."""
        found = evaluated_on(trainer, stage)
        if stage == "val" and isinstance(self.calibration, int) and found:
            first = next(iter(found))
            found[first] = found[first].split(self.calibration)[1]
        return found

    def _check(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Raise what is wrong before any work."""
        classifier = classifier_of(module, self.attribute)
        fitting, calibration = self._learned_from(trainer, module)
        evaluated = self._evaluated(trainer, stage)
        others = {"fitting": fitting, **evaluated}
        if not self._fits_training_inputs and (train := trained_on(trainer, limited=False)) is not None:
            others["train"] = train
        self._check_disjoint(calibration, others)
        for each in self.ood.values():
            asked_for(trainer, module, "ood", each)
        detector = self.make(classifier)
        if not isinstance(detector, FailureDetector):
            raise TypeError(
                f"detector: expected what makes a FailureDetector of a classifier; got one that makes "
                f"{type(detector).__name__}: give partial(FailureDetector, ...)"
            )
        adapter = detector.extractor.adapter
        if calibration.rows is not None and not rehearses(trainer):
            detector.calibration.require(detector.alpha, len(calibration.rows))
        for source in (calibration, *evaluated.values()):
            for batch in islice(on_device(trainer, module, source.batches()), 1):
                _check_logits(classifier, inputs_of(batch, adapter), adapter)
                if source is not calibration:
                    labels_of(batch, adapter)

    @staticmethod
    def _check_disjoint(calibration: Source, others: dict[str, Source]) -> None:
        for name, source in others.items():
            if n := calibration.n_shared(source):
                raise ValueError(
                    f"calibration: expected inputs that are neither trained on, fitted to nor evaluated; {n} of them "
                    f"are among those of the {name} loader: give others"
                )


def _stage(trainer: Trainer) -> str:
    """What a Trainer that evaluates does, as its loaders and values are named."""
    return "test" if trainer.testing else "val"


def _check_logits(classifier: nn.Module, x: Inputs, adapter: Adapter) -> None:
    """Raise unless a classifier gives logits of inputs."""
    with understood(classifier, adapter):
        try:
            output = run(classifier, x)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # what a forward of another purpose can raise has no bounds
            names = ", ".join(repr(name) for name, _ in classifier.named_children()) or "none"
            raise ValueError(
                f"classifier: expected a module that makes logits of inputs; {type(classifier).__name__} fails on them "
                f"({error}): name the module that does with classifier=..., such as one of {names}, or say what it "
                "takes with detector=partial(FailureDetector, adapter=Adapter(inputs=...))"
            ) from error
    logits_of(output)
