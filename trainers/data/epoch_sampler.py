"""A random order of the training images that a resumed training reproduces."""

from collections.abc import Sized

import torch
from torch.utils.data import RandomSampler

from trainers.data.seeds import epoch_seed


class EpochSampler(RandomSampler):
    """A random order that follows from a seed and the epoch, whatever came before.

    A Lightning Trainer tells the epoch, as it does to samplers of distributed training; without one, every pass draws
    another order.

    Args:
        dataset: of known length.
        seed: of the orders.
    """

    def __init__(self, dataset: Sized, seed: int) -> None:
        super().__init__(dataset, generator=torch.Generator())
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the order of this epoch next."""
        self.generator.manual_seed(epoch_seed(self.seed, epoch))
