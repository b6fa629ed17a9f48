"""The classifier of a module under a Trainer, and what a pass outside of the Trainer's loops has to provide itself."""

import random
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from gmm_torch.distributed import is_distributed
from gmm_torch.features.modes import evaluating


def classifier_of(module: LightningModule, attribute: str | None) -> nn.Module:
    """What gives logits: an attribute of a module, `net` or `net.backbone`, or the module itself.

    Raises:
        ValueError: no such attribute, none that is a module, or a module without a forward.
    """
    if attribute is None and type(module).forward is not LightningModule.forward:
        return module
    try:
        found = None if attribute is None else attrgetter(attribute)(module)
    except AttributeError:
        found = None
    if isinstance(found, nn.Module):
        return found
    names = ", ".join(name for name, _ in module.named_children()) or "none"
    if attribute is None:
        expected, got = f"{type(module).__name__} with a forward", "none: name the attribute that gives logits"
    else:
        expected, got = f"the name of a module in {type(module).__name__}", repr(attribute)
    raise ValueError(f"classifier: expected {expected}; got {got}; its modules are: {names}")


@contextmanager
def aside(trainer: Trainer, module: LightningModule, seed: int) -> Iterator[None]:
    """Passes of the classifier that leave the training as it is.

    Within, the module is in evaluation mode, the Trainer validates (which hooks of data may ask for), precision is the
    Trainer's, and random states begin from `seed`; afterwards modes and random states are what they were. Compiled
    code is not run: hooks do not reach it.
    """
    stage = trainer.state.stage
    with ExitStack() as stack:
        stack.enter_context(isolate_rng())
        stack.enter_context(evaluating(module))
        stack.enter_context(torch.no_grad())
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


def on_device(trainer: Trainer, module: LightningModule, batches: Iterable[Any]) -> Iterator[Any]:
    """Batches as steps of the module get them: through the hooks of module and data module, where the module is."""
    data = data_module(trainer)
    hooks = module if data is None or not is_overridden("on_before_batch_transfer", data) else data
    for batch in batches:
        converted = hooks.on_before_batch_transfer(trainer.precision_plugin.convert_input(batch), dataloader_idx=0)
        yield trainer.strategy.batch_to_device(converted, dataloader_idx=0)


def share_buffers(classifier: nn.Module) -> None:
    """Give all processes the buffers of the first, such as running statistics, as their next common pass would."""
    if is_distributed():
        for buffer in classifier.buffers():
            dist.broadcast(buffer, 0)


def data_module(trainer: Trainer) -> LightningDataModule | None:
    """What the Trainer gets its loaders from, if it is no loader itself."""
    return trainer.datamodule  # type: ignore[attr-defined, no-any-return]


def rehearses(trainer: Trainer) -> bool:
    """True in a `fast_dev_run`: too few batches to calibrate, and nothing is logged or saved."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
