"""The service as a FastAPI application."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Literal

import torch
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from torch import Tensor

from gmm_torch.detection import FailureDetector
from gmm_torch.errors import NotFittedError
from trainers.data.images import ImageShape, as_image_shape
from trainers.data.resize import DEFAULT_RESIZE, Resize
from trainers.serve.answers import Answer, CalibrationAnswer, Health, Problem
from trainers.serve.batching import Batcher
from trainers.serve.histogram import histogram
from trainers.serve.images import ImageRejected, read_image
from trainers.serve.limits import Limits
from trainers.serve.metrics import Metrics
from trainers.serve.middleware import Watched
from trainers.serve.page import PAGE, content_security_policy
from trainers.serve.predictor import Predictor, Question
from trainers.serve.uploads import read_upload

log = logging.getLogger(__name__)

BINARY = {"type": "string", "format": "binary"}
FORM = {"type": "object", "properties": {"image": BINARY}, "required": ["image"]}
MEDIA_TYPES = (
    "application/octet-stream", "image/bmp", "image/jpeg", "image/png", "image/tiff", "image/webp",
    "image/x-portable-pixmap",
)  # fmt: skip
BODY = {
    "required": True,
    "description": "the file of an image: as the body itself, or as the one file of a form",
    "content": {
        **{kind: {"schema": BINARY} for kind in MEDIA_TYPES},
        "multipart/form-data": {"schema": FORM},
    },
}
PROBLEMS = {
    400: "The form has no file, or several, or is damaged.",
    408: "The body did not arrive in time.",
    413: "Too many bytes or pixels.",
    415: "No image of a known format.",
    422: "A damaged image, or a parameter out of range.",
    500: "The model failed on this image.",
    503: "Too much work at hand, or starting: try again after the seconds of Retry-After.",
    504: "The verdict took too long.",
}
RETRY_AFTER = {"Retry-After": "1"}


class Service:
    """What the routes share: the model's thread, the decoders, the gate, the counters."""

    def __init__(
        self, predictor: Predictor, metrics: Metrics, limits: Limits, image_shape: ImageShape, resize: Resize
    ) -> None:
        self.predictor = predictor
        self.metrics = metrics
        self.limits = limits
        self.image_shape = image_shape
        self.resize = resize
        self.batcher = Batcher[Question, Answer](self._timed, limits.max_batch, limits.max_wait)
        self.warming: asyncio.Future[object] | None = None
        self.waiting = 0

    def _timed(self, questions: Sequence[Question]) -> list[Answer]:
        with self.metrics.model_seconds.time():
            return self.predictor(questions)

    @asynccontextmanager
    async def running(self, _: FastAPI) -> AsyncIterator[None]:
        """Threads, and a first batch that makes the model allocate what it needs."""
        async with self.batcher:
            self.decoders = ThreadPoolExecutor(self.limits.n_decoders, thread_name_prefix="decoder")
            silent = Predictor(self.predictor.detector, self.predictor.class_names)  # uncounted: no image of the stream
            blank = [Question(torch.zeros(self.image_shape, dtype=torch.uint8))] * self.limits.max_batch
            self.warming = asyncio.get_running_loop().run_in_executor(self.batcher.thread, silent, blank)
            self.warming.add_done_callback(_report)
            try:
                yield
            finally:
                await asyncio.to_thread(self.decoders.shutdown)

    @property
    def ready(self) -> bool:
        """Whether the model has taken its first batch."""
        return self._warmed and self.warming.exception() is None  # type: ignore[union-attr]

    @property
    def _warmed(self) -> bool:
        return self.warming is not None and self.warming.done() and not self.warming.cancelled()

    @property
    def status(self) -> Literal["ready", "starting", "stalled", "failed"]:
        """As in `Health`."""
        if self.warming is None:
            return "starting"
        if not self.batcher.alive or (self._warmed and not self.ready):
            return "failed"
        if self.batcher.busy_for > self.limits.timeout:
            return "stalled"
        return "ready" if self.ready else "starting"

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """A place among those in work; 503 where there is none."""
        if not self.ready:
            raise HTTPException(503, "the service is starting: try again", RETRY_AFTER)
        if self.waiting >= self.limits.max_waiting:
            raise HTTPException(503, f"{self.waiting} requests are in work already: try again", RETRY_AFTER)
        self.waiting += 1
        self.metrics.waiting.set(self.waiting)
        try:
            yield
        finally:
            self.waiting -= 1
            self.metrics.waiting.set(self.waiting)

    async def answer(self, body: bytes, explain: bool) -> Answer:
        """The verdict on the bytes of an image."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.limits.timeout):
                image: Tensor = await loop.run_in_executor(
                    self.decoders, read_image, body, self.image_shape, self.limits.max_pixels, self.resize
                )
                return await self.batcher.submit(Question(image, explain))
        except ImageRejected as error:
            raise HTTPException(error.status, str(error)) from error
        except TimeoutError as error:
            raise HTTPException(504, f"no verdict within {self.limits.timeout:g} seconds: try again later") from error
        except Exception as error:
            log.exception("no verdict")
            raise HTTPException(500, "the model failed on this image; the log of the service says where") from error


def create_app(
    detector: FailureDetector,
    image_shape: Sequence[int],
    class_names: Sequence[str] | None = None,
    limits: Limits | None = None,
    *,
    resize: Resize = DEFAULT_RESIZE,
    page: str = PAGE,
) -> FastAPI:
    """An application that gives verdicts on images: `POST /predict`, `/health`, `/metrics`, `/calibration`, and a
    page at `/`.

    Example:
        >>> app = create_app(detector, (3, 32, 32), class_names)    # doctest: +SKIP
        >>> uvicorn.run(app, host="127.0.0.1", port=8000)           # doctest: +SKIP

    Args:
        detector: fitted and calibrated; it runs where its classifier is.
        image_shape: (C, H, W) that the classifier takes; images of any size and colour are brought to it.
        class_names: index -> name; numbers where None.
        limits: bounds; the defaults of `Limits` where None.
        resize: how an image gets that shape.
        page: the HTML at `/`.

    Raises:
        NotFittedError: the detector is not fitted or not calibrated.
        ValueError: a classifier that does not take such images, fewer class names than classes, or so few calibration
            images for the detector's alpha that it would accept everything.
    """
    shape = as_image_shape(image_shape)
    n_classes = _check(detector, shape, class_names)
    metrics = Metrics(detector)
    service = Service(Predictor(detector, class_names, metrics.watch), metrics, limits or Limits(), shape, resize)
    app = FastAPI(
        title="gmm_torch",
        description="Predictions of a classifier, and whether to believe them.",
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        lifespan=service.running,
        separate_input_output_schemas=False,
    )
    app.state.service = service

    @app.post(
        "/predict",
        openapi_extra={"requestBody": BODY},
        responses={status: {"model": Problem, "description": text} for status, text in PROBLEMS.items()},
    )
    async def predict(request: Request, explain: bool = Query(True, description="say why, which costs time")) -> Answer:
        """The verdict on an image: prediction, p-value, accepted or refused, and why."""
        with service.admitted():
            body = await read_upload(request, service.limits.max_bytes, service.limits.timeout)
            return await service.answer(body, explain)

    @app.get("/calibration", responses={422: {"model": Problem}})
    def calibration(
        prediction: int = Query(ge=0, lt=n_classes, description="the predicted class"),
    ) -> CalibrationAnswer:
        """The calibration scores that images of a predicted class are compared with."""
        return histogram(detector, prediction)

    @app.get("/health", responses={503: {"model": Health, "description": "Not ready."}})
    async def health(response: Response) -> Health:
        """Whether the service takes images; 200 only then."""
        status = service.status
        response.status_code = 200 if status == "ready" else 503
        return Health(
            status=status,
            alpha=detector.alpha,
            n_calibration=len(detector.calibration),
            n_classes=n_classes,
            image_shape=list(shape),
            waiting=service.waiting,
        )

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def exposition() -> Response:
        """Counters in Prometheus' text format."""
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    @app.api_route("/", methods=["GET", "HEAD"], response_class=HTMLResponse, include_in_schema=False)
    async def index() -> str:
        return page

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"detail": f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}"}, 422)

    paths = frozenset({"/", "/predict", "/calibration", "/health", "/metrics"})
    app.add_middleware(Watched, metrics=metrics, paths=paths, policy=content_security_policy(page))
    return app


@torch.inference_mode()
def _check(detector: FailureDetector, shape: ImageShape, class_names: Sequence[str] | None) -> int:
    """Raise now what would fail every request; gives the number of classes."""
    try:
        n_classes = detector(torch.zeros(2, *shape, device=detector.device)).logits.shape[-1]
    except NotFittedError:
        raise
    except RuntimeError as error:
        raise ValueError(
            f"the classifier does not take images of shape (N, {', '.join(map(str, shape))}): {error}"
        ) from error
    if class_names is not None and len(class_names) < n_classes:
        raise ValueError(f"class_names: expected {n_classes}, one a class; got {len(class_names)}")
    detector.calibration.target(detector.alpha)
    return n_classes


def _report(first_batch: asyncio.Future[object]) -> None:
    if not first_batch.cancelled() and (error := first_batch.exception()) is not None:
        log.error("the model failed on its first batch; the service stays not ready", exc_info=error)
