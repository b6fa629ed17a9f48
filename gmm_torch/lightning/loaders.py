"""The loaders of a Trainer, and those that data module and module have methods for."""

import math
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.core.hooks import DataHooks

from gmm_torch.features.inputs import check_loader
from gmm_torch.lightning.inputs import Source
from gmm_torch.lightning.surroundings import data_module

TRAIN, VALIDATION = "train_dataloader", "val_dataloader"


def asked_for(trainer: Trainer, module: LightningModule, what: str, asked: Any) -> Any:
    """A loader as it is, or for a name that of the data module's or module's method; `what` argument asks.

    Raises:
        ValueError: there is no such method.
        TypeError: it gives no loader.
    """
    if not isinstance(asked, str):
        return asked
    for owner in (data_module(trainer), module):
        method = getattr(owner, asked, None)
        if callable(method) and getattr(method, "__func__", method) is not getattr(DataHooks, asked, None):
            loader = method()
            check_loader(loader, f"{what}={asked!r}")
            return loader
    raise ValueError(
        f"{what}: expected a loader, or the name of a method of the data module or the module; neither has "
        f"{asked!r}: give {what}=..."
    )


def trained_on(trainer: Trainer, *, limited: bool) -> Source | None:
    """What the Trainer trains on, or if `limited` what it reads of that; None where it does not train.

    Raises:
        ValueError: it trains on several loaders at once.
    """
    loader = trainer.train_dataloader
    if isinstance(loader, dict | list | tuple):
        raise ValueError(
            f"fitting: expected one train loader; got {len(loader)} of them: give the one that the classifier takes "
            "as fitting=..."
        )
    limit = trainer.num_training_batches if limited else math.inf
    return None if loader is None else Source.of(loader, limit, trainer.world_size)


def evaluated_on(trainer: Trainer, stage: str) -> dict[str, Source]:
    """What the Trainer validates ("val") or tests ("test") on, by name, as far as it reads it."""
    if stage == "val":
        loaders, limits = trainer.val_dataloaders, trainer.num_val_batches
    else:
        loaders, limits = trainer.test_dataloaders, trainer.num_test_batches
    return {} if loaders is None else by_name(loaders, stage, limits, trainer.world_size)


def by_name(loaders: Any, stage: str, limits: Any = math.inf, n_processes: int = 1) -> dict[str, Source]:
    """One or more loaders, or a mapping of them, by the names that they are logged under."""
    if isinstance(loaders, dict):
        named = {f"{stage}_{name}": loader for name, loader in loaders.items()}
    else:
        several = loaders if isinstance(loaders, list | tuple) else [loaders]
        named = {stage if i == 0 else f"{stage}_{i}": loader for i, loader in enumerate(several)}
    each = limits if isinstance(limits, list) else [limits] * len(named)
    found = zip(named.items(), each, strict=True)
    return {name: Source.of(loader, limit, n_processes) for (name, loader), limit in found if limit}
