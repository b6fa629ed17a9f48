"""Batching of requests: one thread works on those that have arrived."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class _Waiting(Generic[Item, Result]):
    item: Item
    answer: asyncio.Future[Result]
    arrived: float = field(default_factory=time.monotonic)


class Batcher(Generic[Item, Result]):
    """Gathers what arrives while the thread works on the batch before; an idle thread waits a little for company.

    Used as `async with batcher:`; `submit` works inside.

    Args:
        function: from a list of items to as many results, in their order; called by one thread, one batch at a time.
            Where it raises, each item of the batch is tried alone, so that one bad item does not fail the others.
        max_wait: seconds from an item's arrival after which it waits for no other.
    """

    def __init__(self, function: Callable[[list[Item]], Sequence[Result]], max_batch: int, max_wait: float) -> None:
        self.function = function
        self.max_batch = max_batch
        self.max_wait = max_wait
        self._busy_since: float | None = None
        self._loop: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._queue: asyncio.Queue[_Waiting[Item, Result]] = asyncio.Queue()
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._loop = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._loop is not None
        self._loop.cancel()
        await asyncio.gather(self._loop, return_exceptions=True)
        while not self._queue.empty():
            self._queue.get_nowait().answer.cancel()
        await asyncio.to_thread(self.thread.shutdown)

    @property
    def alive(self) -> bool:
        """Whether items are being worked on."""
        return self._loop is not None and not self._loop.done()

    @property
    def busy_for(self) -> float:
        """Seconds since the thread began with its batch; 0 when it has none."""
        return 0.0 if self._busy_since is None else time.monotonic() - self._busy_since

    async def submit(self, item: Item) -> Result:
        """The function's result for an item; what it raises is what it raised for the item alone."""
        waiting = _Waiting[Item, Result](item, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(waiting)
        return await waiting.answer

    async def _work(self) -> None:
        while True:
            batch = await self._gather()
            try:
                await self._answer(batch)
            except asyncio.CancelledError:
                for waiting in batch:
                    waiting.answer.cancel()
                raise

    async def _gather(self) -> list[_Waiting[Item, Result]]:
        batch = [await self._queue.get()]
        until = batch[0].arrived + self.max_wait
        while len(batch) < self.max_batch:
            left = until - time.monotonic()
            if self._queue.empty() and left <= 0:
                break
            try:
                async with asyncio.timeout(max(left, 0) if self._queue.empty() else None):
                    batch.append(await self._queue.get())
            except TimeoutError:
                break
        return batch

    async def _answer(self, batch: list[_Waiting[Item, Result]]) -> None:
        batch = [waiting for waiting in batch if not waiting.answer.done()]  # the others gave up
        if not batch:
            return
        try:
            results = await self._call([waiting.item for waiting in batch])
        except Exception as error:
            if len(batch) > 1:
                for waiting in batch:
                    await self._answer([waiting])
            elif not batch[0].answer.done():
                batch[0].answer.set_exception(error)
            return
        for waiting, result in zip(batch, results, strict=True):
            if not waiting.answer.done():  # or nobody waits any more
                waiting.answer.set_result(result)

    async def _call(self, items: list[Item]) -> Sequence[Result]:
        self._busy_since = time.monotonic()
        try:
            results = await asyncio.get_running_loop().run_in_executor(self.thread, self.function, items)
        finally:
            self._busy_since = None
        if len(results) != len(items):
            raise RuntimeError(f"batch function: expected {len(items)} results; got {len(results)}")
        return results
