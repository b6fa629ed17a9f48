"""Work on outputs that come in batches, done on larger chunks of bounded size."""

from collections.abc import Callable
from typing import Generic, TypeVar

from torch import Tensor

from gmm_torch.features.features import Features
from gmm_torch.features.inputs import NO_BATCH

T = TypeVar("T")
CHUNK = 2**27  # bytes of outputs that are worked on at a time


class Chunks(Generic[T]):
    """Does some work on a stream of outputs: on as many at a time as a chunk holds, on no batch twice.

    What it gives for a stream that fits into one chunk does not depend on the stream's batches.
    """

    def __init__(self, work: Callable[[Features], T], nbytes: int = CHUNK) -> None:
        self.work = work
        self.nbytes = nbytes
        self._waiting: list[Features] = []
        self._n_waiting = 0
        self._done: list[T] = []

    def add(self, outputs: Features) -> None:
        """Take the next batch."""
        self._waiting.append(outputs)
        self._n_waiting += len(outputs.logits)
        if self._n_waiting * outputs.row_bytes >= self.nbytes:
            self._work()

    def end(self) -> list[T]:
        """What the work gave, chunk after chunk; raises ValueError where there was no batch."""
        if self._waiting:
            self._work()
        if not self._done:
            raise ValueError(f"loader: {NO_BATCH}")
        return self._done

    def _work(self) -> None:
        outputs = Features.cat(self._waiting)
        self._waiting, self._n_waiting = [], 0
        self._done.append(self.work(outputs))


def in_chunks(compute: Callable[[Features], Tensor], outputs: Features) -> Tensor:
    """The rows (N, ...) that are computed of outputs, of a chunk at a time: what lies between is bounded."""
    parts, n = outputs.chunks(CHUNK), len(outputs.logits)
    rows = compute(next(parts))
    if len(rows) == n:
        return rows
    found, done = rows.new_empty(n, *rows.shape[1:]), len(rows)  # the whole is never there twice
    found[:done] = rows
    for part in parts:
        rows = compute(part)
        found[done : done + len(rows)] = rows
        done += len(rows)
    return found
