"""Inputs of the loaders of a Trainer, and which of them two loaders have in common."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.core.hooks import DataHooks
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

from gmm_torch.distributed import share
from gmm_torch.features.inputs import check_loader

_READ_ALIKE = (
    *("batch_size", "num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn"),
    *("multiprocessing_context", "prefetch_factor"),
)


@dataclass(frozen=True)
class Source:
    """Inputs of a loader."""

    loader: Any
    rows: Tensor | None  # (n,) int64, in its data set; None where only the loader knows them
    limit: int | None = None  # number of batches to read where the rows are unknown

    @classmethod
    def of(cls, loader: Any, limit: float = math.inf, n_processes: int = 1) -> "Source":
        """The inputs of a loader, or those of its first `limit` batches in each of `n_processes`.

        A limited loader that shuffles gives a random part of its data set, the same each time.
        """
        rows, at_most = _known_rows(loader), None if math.isinf(limit) else int(limit)
        if rows is not None and at_most is not None and at_most < len(loader):
            if not isinstance(loader.sampler, SequentialSampler) and getattr(loader.sampler, "shuffle", True):
                rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
            rows = rows[: at_most * loader.batch_size * n_processes].sort().values
        return cls(loader, rows, at_most)

    def split(self, every: int) -> tuple["Source", "Source"]:
        """Every `every`-th input by its place, and the others.

        Raises:
            ValueError: the loader's rows are not known.
        """
        if self.rows is None:
            raise ValueError(
                f"calibration: expected a validation DataLoader over a data set with a length, to hold out one input "
                f"in {every}; got {type(self.loader).__name__}: give a calibration loader"
            )
        held_out = torch.arange(len(self.rows)) % every == 0
        return Source(self.loader, self.rows[held_out]), Source(self.loader, self.rows[~held_out])

    def batches(self) -> Iterable[Any]:
        """This process's share, each input once, in the order of the data set; as the loader gives it if unknown."""
        loader = self.loader
        if self.rows is None:
            return islice(loader, self.limit)
        return DataLoader(
            Subset(loader.dataset, share(self.rows).tolist()), **{name: getattr(loader, name) for name in _READ_ALIKE}
        )

    def n_shared(self, other: "Source") -> int:
        """Number of inputs that another source has too, by their place in the same data set; 1 for the same stream."""
        if self.rows is None or other.rows is None:
            mine, others = (getattr(each.loader, "dataset", each.loader) for each in (self, other))
            return int(mine is others)
        (mine, rows), (others, other_rows) = (
            _root(self.loader.dataset, self.rows),
            _root(other.loader.dataset, other.rows),
        )
        return int(torch.isin(rows, other_rows).sum()) if mine is others else 0


def _known_rows(loader: Any) -> Tensor | None:
    """Rows (n,) int64 of its data set that a loader gives in an epoch; None where that is unknown."""
    if type(loader) is not DataLoader or loader.batch_size is None or isinstance(loader.dataset, IterableDataset):
        return None
    sampler, n = loader.sampler, len(loader.dataset)  # type: ignore[arg-type]
    if isinstance(sampler, SubsetRandomSampler):
        return torch.as_tensor(sampler.indices).long()
    whole = isinstance(sampler, SequentialSampler) or (
        isinstance(sampler, RandomSampler) and not sampler.replacement and sampler.num_samples == n
    )
    # Lightning's, in several processes; around a sampler of the user's its data set is that sampler
    whole |= isinstance(sampler, DistributedSampler) and sampler.dataset is loader.dataset
    return torch.arange(n) if whole else None


def _root(dataset: Any, rows: Tensor) -> tuple[Any, Tensor]:
    """The data set that subsets are taken from, and rows there; of a TensorDataset its first tensor."""
    while isinstance(dataset, Subset):
        dataset, rows = dataset.dataset, torch.as_tensor(dataset.indices)[rows]
    return dataset.tensors[0] if isinstance(dataset, TensorDataset) else dataset, rows


def asked_for(trainer: Trainer, module: LightningModule, argument: str, loader: Any) -> Any:
    """A loader as it is; for a name, the loader from that method of the data module or the module.

    Raises:
        ValueError: there is no such method.
        TypeError: it gives no loader.
    """
    if not isinstance(loader, str):
        return loader
    for owner in (trainer.datamodule, module):  # type: ignore[attr-defined]
        method = getattr(owner, loader, None)
        if callable(method) and getattr(method, "__func__", method) is not getattr(DataHooks, loader, None):
            found = method()
            check_loader(found, f"{argument}={loader!r}")
            return found
    raise ValueError(
        f"{argument}: expected a loader, or the name of a method of the data module or the module; neither has "
        f"{loader!r}: give {argument}=..."
    )


def train_source(trainer: Trainer, *, limited: bool) -> Source | None:
    """Inputs that the Trainer trains on, up to its limit if `limited`; None where it does not train.

    Raises:
        ValueError: it trains on several loaders at once.
    """
    loader = trainer.train_dataloader
    if isinstance(loader, dict | list | tuple):
        raise ValueError(
            f"fitting: expected one train loader; got {len(loader)} of them: give the classifier's as fitting=..."
        )
    limit = trainer.num_training_batches if limited else math.inf
    return None if loader is None else Source.of(loader, limit, trainer.world_size)


def named_sources(loaders: Any, stage: str, limits: Any = math.inf, n_processes: int = 1) -> dict[str, Source]:
    """One or more loaders, or a mapping of them, by the names that they are logged under: "val", "val_1", ..."""
    if isinstance(loaders, dict):
        named = {f"{stage}_{name}": loader for name, loader in loaders.items()}
    else:
        several = loaders if isinstance(loaders, list | tuple) else [loaders]
        named = {stage if i == 0 else f"{stage}_{i}": loader for i, loader in enumerate(several)}
    each = limits if isinstance(limits, list) else [limits] * len(named)
    found = zip(named.items(), each, strict=True)
    return {name: Source.of(loader, limit, n_processes) for (name, loader), limit in found if limit}
