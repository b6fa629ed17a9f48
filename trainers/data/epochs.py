"""A random order of the training images that follows from a seed and the epoch, so that a resumed training has it."""

from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, RandomSampler


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed in [0, 2^32) for an epoch of a run with this seed; others for other epochs and other seeds."""
    return int(np.random.SeedSequence([seed % 2**32, epoch]).generate_state(1)[0])


class EpochSampler(RandomSampler):
    """A random order that follows from a seed and the epoch, whatever came before.

    A Lightning Trainer tells the epoch, as it does to samplers of distributed training; without one, every pass draws
    another order.
    """

    def __init__(self, dataset: Sized, seed: int) -> None:
        super().__init__(dataset, generator=torch.Generator())
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the order of this epoch next."""
        self.generator.manual_seed(epoch_seed(self.seed, epoch))


class LateLoader(DataLoader[Any]):
    """A DataLoader that draws its order, and starts its workers, when the first batch is asked for.

    A Lightning Trainer makes the iterator before it tells the sampler the epoch, and when it resumes, before it knows
    the epoch itself: the order would be that of another epoch, or begin at another place of the random numbers.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Over the batches."""
        yield from super().__iter__()
