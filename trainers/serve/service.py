"""What the routes share: the gate, the decoders, the model's thread, the detector in force."""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import KW_ONLY, InitVar, dataclass
from typing import NamedTuple, TypeVar

import torch
from fastapi import FastAPI, HTTPException, Request
from torch import Tensor

from gmm_torch.detector import FailureDetector
from trainers.data.images import ImageShape
from trainers.data.resize import Resize
from trainers.run.file_sizes import another_size, in_words, warning_of
from trainers.serve.answers import Reloaded, Status, finite
from trainers.serve.batching import Batcher
from trainers.serve.drift import Watch
from trainers.serve.images import ImageRejected, read_image
from trainers.serve.limits import Limits
from trainers.serve.metrics import Metrics
from trainers.serve.predictor import Judged, Question
from trainers.serve.request_log import RequestLog
from trainers.serve.served import Served

log = logging.getLogger(__name__)

Result = TypeVar("Result")

RETRY_AFTER = {"Retry-After": "1"}


class Received(NamedTuple):
    """An image as it arrived."""

    sha256: str  # of the bytes of the file, or of the tensor's own
    image: Tensor  # (C, H, W) uint8, or float32 in [0, 1]


class Work(NamedTuple):
    """A question, and the detector that was in force when its request came."""

    served: Served
    question: Question


@dataclass(eq=False)
class Service:
    """One service, for the arguments of `create_app`; `async with service.running(app):` starts and ends its threads.

    Attributes:
        served: the detector in force.
        waiting: images in work.
        draining: set when the process is about to end: it is no longer ready, and answers all the same.
    """

    detector: InitVar[FailureDetector]
    image_shape: ImageShape
    class_names: Sequence[str] | None
    limits: Limits
    _: KW_ONLY
    resize: Resize
    drift: Watch
    load: Callable[[], FailureDetector] | None
    log: RequestLog

    def __post_init__(self, detector: FailureDetector) -> None:
        self.metrics = Metrics(lambda: self.served)
        self.served = self._serve(detector)
        self.metrics.in_force(self.served.version)
        self.batcher = Batcher[Work, Judged](self._judge, self.limits.max_batch, self.limits.max_wait)
        self.warming: asyncio.Future[None] | None = None
        self.waiting = 0
        self.draining = False
        self._reloading = asyncio.Lock()

    def _serve(self, detector: FailureDetector) -> Served:
        return Served(detector, self.image_shape, self.class_names, self.drift)

    def _judge(self, work: Sequence[Work]) -> list[Judged]:
        """Every question by its own detector; a batch has several only around a reload."""
        with self.metrics.model_seconds.time():
            found: dict[int, Judged] = {}
            for served in dict.fromkeys(each.served for each in work):
                rows = [i for i, each in enumerate(work) if each.served is served]
                judged, alarm = served.judge([work[i].question for i in rows])
                self.metrics.watch(judged)
                if alarm:
                    self.metrics.alarms.inc()
                    self.log.write("drift_alarm", detector=served.version)
                found |= zip(rows, judged, strict=True)
            return [found[i] for i in range(len(work))]

    @asynccontextmanager
    async def running(self, _: FastAPI) -> AsyncIterator[None]:
        """Threads, and a first batch that makes the model allocate what it needs."""
        self._loop = asyncio.get_running_loop()
        async with self.batcher:
            self.decoders = ThreadPoolExecutor(self.limits.n_decoders, thread_name_prefix="decoder")
            self.warming = warming = self._warm(self.served)
            warming.add_done_callback(_report)
            try:
                yield
            finally:
                await asyncio.to_thread(self.decoders.shutdown)
                self.log.close()

    def _warm(self, served: Served) -> asyncio.Future[None]:
        blank = [Question(torch.zeros(self.image_shape, dtype=torch.uint8))] * self.limits.max_batch
        return self._loop.run_in_executor(self.batcher.thread, served.warm, blank)

    @property
    def started(self) -> bool:
        """Whether the model has taken its first batch."""
        return self._warmed and self.warming.exception() is None  # type: ignore[union-attr]

    @property
    def _warmed(self) -> bool:
        return self.warming is not None and self.warming.done() and not self.warming.cancelled()

    @property
    def status(self) -> Status:
        """As in `Health`."""
        if self.warming is None:
            return "starting"
        if not self.batcher.alive or (self._warmed and not self.started):
            return "failed"
        if self.batcher.busy_for > self.limits.timeout:
            return "stalled"
        if self.draining:
            return "draining"
        return "ready" if self.started else "starting"

    @contextmanager
    def admitted(self, request: Request) -> Iterator["Job"]:
        """A place among those in work; 503 where there is none."""
        if not self.started:
            raise HTTPException(503, "the service is starting: try again", RETRY_AFTER)
        job = Job(self, request.state.request_id)
        job.take(1)
        try:
            yield job
        finally:
            job.take(0)

    def receive(self, body: bytes) -> Received:
        """Decode a file, see `read_image`."""
        image = read_image(body, self.image_shape, self.limits.max_pixels, self.resize, self._notice_size)
        return Received(hashlib.sha256(body).hexdigest(), image)

    def _notice_size(self, height: int, width: int) -> None:
        """Warn, once for each detector, of an image of another size than the calibration images."""
        served, size = self.served, in_words(height, width)
        fitted = served.detector.preprocessing
        if another_size(fitted, size) and not served.told_of_size:
            served.told_of_size = True
            log.warning("%s", warning_of(fitted, size, "a file that was sent; others are not told"))

    async def reload(self) -> Reloaded:
        """Load the detector anew, check it, let it judge a batch, and put it in force; requests in work keep theirs.

        Raises:
            HTTPException: 501 nobody said where from; 409 a reload is under way; 422 what was loaded can't serve: the
                detector stays.
        """
        if self.load is None:
            raise HTTPException(501, "this service was not told where detectors come from: create_app(..., load=...)")
        if self._reloading.locked():
            raise HTTPException(409, "a reload is under way: wait for its answer")
        async with self._reloading:
            before = self.served.version
            try:
                load = self.load
                served = await asyncio.to_thread(lambda: self._serve(load()))
                await self._warm(served)
            except Exception as error:
                self.metrics.reloads.labels("failed").inc()
                self.log.write("reload", result="failed", detector=before, detail=str(error))
                log.exception("reload: detector %s stays", before)
                raise HTTPException(422, f"detector {before} stays: {error}") from error
            changed = served.version != before
            if changed:
                self.served = served
                self.metrics.in_force(served.version)
            self.metrics.reloads.labels("done").inc()
            self.log.write("reload", result="done", detector=served.version, changed=changed)
            log.info("reload: detector %s, %s", served.version, "new" if changed else "as before")
            return Reloaded(detector=served.version, changed=changed)

    def reload_soon(self) -> None:
        """`reload` from another thread or a signal's handler; the log tells what became of it."""
        if not self.started:
            log.warning("reload: the service is starting: try again")
            return
        self._loop.call_soon_threadsafe(lambda: self._loop.create_task(self._reload_and_log()))

    async def _reload_and_log(self) -> None:
        try:
            await self.reload()
        except HTTPException as error:
            log.error("reload: %s", error.detail)


class Job:
    """A request in work: the detector in force when it came, and the places that it takes."""

    def __init__(self, service: Service, request_id: str) -> None:
        self.service = service
        self.served = service.served
        self.request_id = request_id
        self.n_places = 0
        self._until: float | None = None

    def take(self, n: int) -> None:
        """Take `n` places in all; 503 where there are not as many."""
        service, more = self.service, n - self.n_places
        if more > 0 and service.waiting + more > service.limits.max_waiting:
            raise HTTPException(503, f"{service.waiting} images are in work already: try again", RETRY_AFTER)
        service.waiting += more
        service.metrics.waiting.set(service.waiting)
        self.n_places = n

    async def read(self, function: Callable[[bytes], Result], body: bytes) -> Result:
        """Have a decoder read a body."""
        async with self._answering():
            return await asyncio.get_running_loop().run_in_executor(self.service.decoders, function, body)

    async def judge(self, received: Received, explain: bool, index: int = 0) -> Judged:
        """The verdict on an image, the `index`-th of the request."""
        began = time.perf_counter()
        async with self._answering():
            judged = await self.service.batcher.submit(Work(self.served, Question(received.image, explain)))
        record = judged.record
        self.service.log.write(
            "decision",
            request_id=self.request_id,
            index=index,
            sha256=received.sha256,
            prediction=record.prediction,
            class_name=record.class_name,
            score=finite(record.score),
            p_value=record.p_value if record.finite else None,
            accept=record.accept,
            seconds=round(time.perf_counter() - began, 6),
            detector=self.served.version,
        )
        return judged

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        """Inside, what goes wrong becomes an answer."""
        timeout = self.service.limits.timeout
        if self._until is None:
            self._until = asyncio.get_running_loop().time() + timeout
        try:
            async with asyncio.timeout_at(self._until):
                yield
        except HTTPException:
            raise
        except ImageRejected as error:
            raise HTTPException(error.status, str(error)) from error
        except TimeoutError as error:
            raise HTTPException(504, f"no verdict within {timeout:g} seconds: try again later") from error
        except Exception as error:
            log.exception("no verdict")
            raise HTTPException(500, "the model failed on this image; the log of the service says where") from error


def _report(first_batch: asyncio.Future[None]) -> None:
    if not first_batch.cancelled() and (error := first_batch.exception()) is not None:
        log.error("the model failed on its first batch; the service stays not ready", exc_info=error)
