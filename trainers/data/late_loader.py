"""A DataLoader that draws its order when the first batch is asked for."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader


class LateLoader(DataLoader[Any]):
    """A DataLoader that draws its order, and starts its workers, when the first batch is asked for.

    A Lightning Trainer makes the iterator before it tells the sampler the epoch, and when it resumes, before it knows
    the epoch itself: the order would be that of another epoch, or begin at another place of the random numbers.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Over the batches."""
        yield from super().__iter__()
