"""Batches are gathered, answered in order, one at a time, and one bad item fails alone."""

import asyncio
import threading

import pytest

from trainers.serve.batching import Batcher


class Recorder:
    """Doubles numbers; notes the batches, the threads, and whether two calls ever overlapped."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()
        self.overlapped = False
        self._busy = threading.Lock()

    def __call__(self, items: list[int]) -> list[int]:
        self.overlapped |= not self._busy.acquire(blocking=False)
        self.batches.append(items)
        self.threads.add(threading.get_ident())
        if -1 in items:
            raise ValueError("minus one")
        self._busy.release() if self._busy.locked() else None
        return [2 * item for item in items]


def gather(function, items, max_batch=4, max_wait=0.5, together=True):
    """The results of items that arrive together, or one after another."""

    async def run():
        async with Batcher(function, max_batch, max_wait) as batcher:
            if together:
                return await asyncio.gather(*map(batcher.submit, items), return_exceptions=True)
            return [await batcher.submit(item) for item in items]

    return asyncio.run(run())


def test_items_that_arrive_together_share_batches_no_larger_than_allowed():
    recorder = Recorder()
    assert gather(recorder, range(10)) == [2 * i for i in range(10)]
    assert [len(batch) for batch in recorder.batches] == [4, 4, 2]
    assert [i for batch in recorder.batches for i in batch] == list(range(10))
    assert len(recorder.threads) == 1
    assert threading.get_ident() not in recorder.threads


def test_items_that_arrive_one_after_another_are_not_kept_waiting_for_others():
    recorder = Recorder()
    assert gather(recorder, range(3), max_wait=0, together=False) == [0, 2, 4]
    assert recorder.batches == [[0], [1], [2]]


def test_an_idle_thread_waits_for_company_and_leaves_once_the_batch_is_full():
    recorder = Recorder()

    async def run():
        async with Batcher(recorder, 2, 60) as batcher:
            first = asyncio.create_task(batcher.submit(1))
            await asyncio.sleep(0.01)
            return await batcher.submit(2), await first

    assert asyncio.run(run()) == (4, 2)
    assert recorder.batches == [[1, 2]]


def test_a_bad_item_fails_alone():
    def double(items):
        if -1 in items:
            raise ValueError("minus one")
        return [2 * item for item in items]

    results = gather(double, [1, -1, 3, 4])
    assert [results[0], *results[2:]] == [2, 6, 8]
    assert isinstance(results[1], ValueError)


def test_two_batches_never_run_at_once():
    recorder = Recorder()
    gather(recorder, range(40), max_batch=1, max_wait=0)
    assert len(recorder.batches) == 40
    assert not recorder.overlapped


def test_an_item_whose_sender_gave_up_is_not_worked_on():
    recorder, gate = Recorder(), threading.Event()

    def slow(items):
        gate.wait(10)
        return recorder(items)

    async def run():
        async with Batcher(slow, 1, 0) as batcher:
            first = asyncio.create_task(batcher.submit(1))
            second = asyncio.create_task(batcher.submit(2))
            while not batcher.busy_for:
                await asyncio.sleep(0.001)
            second.cancel()
            await asyncio.sleep(0)
            gate.set()
            await first
            return await batcher.submit(3)

    assert asyncio.run(run()) == 6
    assert recorder.batches == [[1], [3]]


def test_too_few_results_are_an_error_and_not_somebody_elses():
    results = gather(lambda items: items[:1] if len(items) > 1 else [], [1, 2])
    assert all(isinstance(result, RuntimeError) for result in results)


def test_what_is_left_at_the_end_is_told_so():
    gate = threading.Event()

    async def run():
        async with Batcher(lambda items: gate.wait(10) and items, 1, 0) as batcher:
            waiting = [asyncio.create_task(batcher.submit(i)) for i in range(3)]
            while not batcher.busy_for:
                await asyncio.sleep(0.001)
            asyncio.get_running_loop().call_later(0.02, gate.set)
        return await asyncio.gather(*waiting, return_exceptions=True)

    results = asyncio.run(run())
    assert all(isinstance(result, asyncio.CancelledError) for result in results)


@pytest.mark.parametrize("count", [1, 7])
def test_it_can_start_again(count):
    recorder = Recorder()
    batcher = Batcher(recorder, 3, 0)

    async def run():
        async with batcher:
            return await asyncio.gather(*map(batcher.submit, range(count)))

    assert asyncio.run(run()) == asyncio.run(run())
