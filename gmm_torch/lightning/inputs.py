"""Inputs of a loader: rows of a data set, shares of processes, and inputs that two loaders have in common."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
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


@dataclass(frozen=True)
class Source:
    """Inputs of a loader."""

    loader: Any
    rows: Tensor | None  # (n,) int64, those of its data set; None where only the loader knows which it gives
    limit: int | None = None  # of the batches to read of a loader whose rows are not known

    @classmethod
    def of(cls, loader: Any, limit: float = math.inf, n_processes: int = 1) -> "Source":
        """The inputs of a loader, or those of its first `limit` batches in each of `n_processes`.

        A limited loader that shuffles gives a random part of its data set, the same each time.
        """
        rows, at_most = known_rows(loader), None if math.isinf(limit) else int(limit)
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
            Subset(loader.dataset, share(self.rows).tolist()),
            loader.batch_size,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            prefetch_factor=loader.prefetch_factor,
        )

    def n_shared(self, other: "Source") -> int:
        """How many inputs are, by their place in the same data set, among another source's, too."""
        if self.rows is None or other.rows is None:
            mine, others = (getattr(each.loader, "dataset", each.loader) for each in (self, other))
            return 1 if mine is others else 0
        (mine, rows), (others, other_rows) = _root(self), _root(other)
        return int(torch.isin(rows, other_rows).sum()) if mine is others else 0


def known_rows(loader: Any) -> Tensor | None:
    """(n,) int64, the rows of its data set that a loader gives, an epoch through; None where it can't be told."""
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


def _root(source: Source) -> tuple[Any, Tensor]:
    """The data set that subsets are taken from, and rows there; of tensors, the first."""
    dataset, rows = source.loader.dataset, source.rows
    assert rows is not None
    while isinstance(dataset, Subset):
        rows = torch.as_tensor(dataset.indices)[rows]
        dataset = dataset.dataset
    return dataset.tensors[0] if isinstance(dataset, TensorDataset) else dataset, rows
