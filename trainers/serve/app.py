"""The service as a FastAPI application."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.params import Depends as Guard
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.gzip import GZipMiddleware

import gmm_torch
from gmm_torch.detector import FailureDetector
from trainers.data.images import as_image_shape
from trainers.data.resize import DEFAULT_RESIZE, Resize
from trainers.serve.answers import (
    Answer,
    BatchAnswer,
    BatchItem,
    CalibrationAnswer,
    DriftAnswer,
    Health,
    Reloaded,
    answer_of,
    told,
)
from trainers.serve.docs_page import docs_routes
from trainers.serve.drift import Watch, whole_stream
from trainers.serve.histogram import histogram
from trainers.serve.inference.protocol import InferRequest
from trainers.serve.inference.routes import health_routes, inference_routes
from trainers.serve.keys import RequireKey
from trainers.serve.limits import Limits
from trainers.serve.middleware import Watched
from trainers.serve.page import PAGE, content_security_policy
from trainers.serve.request_log import RequestLog
from trainers.serve.service import Job, Service
from trainers.serve.uploads import Upload, read_uploads

BINARY = {"type": "string", "format": "binary"}
MEDIA_TYPES = (
    "application/octet-stream", "image/bmp", "image/jpeg", "image/png", "image/tiff", "image/webp",
    "image/x-portable-pixmap",
)  # fmt: skip


def _form(schema: Mapping[str, object]) -> dict[str, object]:
    return {"schema": {"type": "object", "properties": {"image": schema}, "required": ["image"]}}


BODY = {
    "required": True,
    "description": "the file of an image: as the body itself, or as the one file of a form",
    "content": {**{kind: {"schema": BINARY} for kind in MEDIA_TYPES}, "multipart/form-data": _form(BINARY)},
}
BATCH_BODY = {
    "required": True,
    "description": "the files of images, as a form",
    "content": {"multipart/form-data": _form({"type": "array", "items": BINARY})},
}
PROBLEMS = {
    400: "The body is damaged, or not what the route takes: no file, too many files, no tensor of that shape.",
    401: "The API key is missing or wrong.",
    408: "The body did not arrive in time.",
    413: "Too many bytes or pixels.",
    415: "No image of a known format, or an unknown compression of the body.",
    422: "A damaged image, or a parameter out of range.",
    500: "The model failed on this image.",
    503: "Too much work at hand, or starting: try again after the seconds of Retry-After.",
    504: "The verdict took too long.",
}
RELOAD_PROBLEMS = {
    401: PROBLEMS[401],
    409: "A reload is under way.",
    422: "What was loaded can't serve; the detector stays.",
    501: "The service was not told where detectors come from.",
}


def create_app(
    detector: FailureDetector,
    image_shape: Sequence[int],
    class_names: Sequence[str] | None = None,
    limits: Limits | None = None,
    *,
    resize: Resize = DEFAULT_RESIZE,
    page: str = PAGE,
    name: str = "gmm_torch",
    key: str | None = None,
    open_metrics: bool = False,
    log: str | None = None,
    drift: Watch = whole_stream,
    load: Callable[[], FailureDetector] | None = None,
) -> FastAPI:
    """An application that gives verdicts on images: see `docs/serving.md` for its routes.

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
        name: of the model in the Open Inference Protocol.
        key: that requests must carry; None lets all pass. Health, the page, `/docs` and the schema need none.
        open_metrics: `/metrics` needs no key either.
        log: where requests and decisions are logged as JSON lines: "-" is standard output, None nowhere, else a file.
        drift: function from calibration scores (n,) to a new drift monitor; by default one of the whole stream.
        load: gives the detector of a reload, with a classifier of its own, for the same images and classes; None
            refuses reloads.

    Raises:
        NotFittedError: the detector is not fitted or not calibrated.
        ValueError: a classifier that does not take such images, fewer class names than classes, or so few calibration
            images for the detector's alpha that it would accept everything; a key that no header can carry.
    """
    guard = Depends(RequireKey(key))
    service = Service(
        detector, as_image_shape(image_shape), class_names, limits or Limits(),
        resize=resize, drift=drift, load=load, log=RequestLog(log),
    )  # fmt: skip
    app = FastAPI(
        title="gmm_torch",
        description="Predictions of a classifier, and whether to believe them.",
        version=gmm_torch.__version__,
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere
        redoc_url=None,
        lifespan=service.running,
        separate_input_output_schemas=False,
    )
    app.state.service = service
    for router in (
        _verdict_routes(service, guard),
        _operation_routes(service, guard, [] if open_metrics else [guard]),
        health_routes(service),
        inference_routes(service, name, PROBLEMS, [guard]),
        docs_routes(app.title),
    ):
        app.include_router(router)

    @app.api_route("/", methods=["GET", "HEAD"], response_class=HTMLResponse, include_in_schema=False)
    async def index() -> str:
        return page

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return _problem(request, 422, f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}")

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> JSONResponse:
        return _problem(request, error.status_code, error.detail, error.headers)

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = FastAPI.openapi(app)
            # Of a request whose body is read piece by piece, no route's signature declares the schema.
            message = InferRequest.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas = schema["components"]["schemas"]
            schemas |= message.pop("$defs") | {"InferRequest": message}
            for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, which no answer has the form of
                schemas.pop(name, None)
            for operation in (each for path in schema["paths"].values() for each in path.values()):
                if "HTTPValidationError" in str(operation["responses"].get("422")):
                    del operation["responses"]["422"]
        return FastAPI.openapi(app)  # which keeps it

    app.openapi = described  # type: ignore[method-assign]
    app.add_middleware(GZipMiddleware, minimum_size=1024, compresslevel=5)
    app.add_middleware(Watched, metrics=service.metrics, log=service.log, policy=content_security_policy(page))
    return app


def _problem(request: Request, status: int, text: str, headers: object = None) -> JSONResponse:
    """A refusal, in the words of the protocol whose route was asked."""
    word = "error" if request.url.path.startswith("/v2") else "detail"
    return JSONResponse({word: text}, status, headers=headers)  # type: ignore[arg-type]


def _verdict_routes(service: Service, guard: Guard) -> APIRouter:
    router = APIRouter(tags=["verdicts"], dependencies=[guard])
    refusals = told(PROBLEMS)

    async def verdict(job: Job, upload: Upload, explain: bool, index: int = 0) -> Answer:
        received = await job.read(service.receive, upload.content)
        judged = await job.judge(received, explain, index)
        return answer_of(judged.record, job.served.detector.alpha, job.served.version, judged.explanation)

    async def item(job: Job, upload: Upload, explain: bool, index: int) -> BatchItem:
        try:
            answer = await verdict(job, upload, explain, index)
            return BatchItem(file=upload.name, status=200, answer=answer, detail=None)
        except HTTPException as error:
            return BatchItem(file=upload.name, status=error.status_code, answer=None, detail=error.detail)

    @router.post("/predict", summary="Verdict on an image", openapi_extra={"requestBody": BODY}, responses=refusals)
    async def predict(request: Request, explain: bool = Query(True, description="say why, which costs time")) -> Answer:
        """The verdict on an image: prediction, p-value, accepted or refused, and why."""
        with service.admitted(request) as job:
            (upload,) = await read_uploads(request, service.limits, 1)
            service.metrics.request_images.observe(1)
            return await verdict(job, upload, explain)

    @router.post(
        "/predict/batch",
        summary="Verdicts on several images",
        openapi_extra={"requestBody": BATCH_BODY},
        responses=refusals,
    )
    async def predict_batch(
        request: Request, explain: bool = Query(False, description="say why, which costs time")
    ) -> BatchAnswer:
        """The verdicts on the files of a form, in its order. What is wrong with one of them is told in its place, and
        the others are answered all the same."""
        with service.admitted(request) as job:
            uploads = await read_uploads(request, service.limits, service.limits.most_images)
            job.take(len(uploads))
            service.metrics.request_images.observe(len(uploads))
            found = await asyncio.gather(*(item(job, upload, explain, i) for i, upload in enumerate(uploads)))
            return BatchAnswer(items=found)

    @router.get(
        "/calibration", summary="Calibration scores", responses=told({401: PROBLEMS[401], 422: "No such class."})
    )
    def calibration(prediction: int = Query(ge=0, description="the predicted class")) -> CalibrationAnswer:
        """The calibration scores that images of a predicted class are compared with."""
        served = service.served
        if prediction >= served.n_classes:
            raise HTTPException(422, f"prediction: expected a class below {served.n_classes}; got {prediction}")
        return histogram(served.detector, prediction)

    return router


def _operation_routes(service: Service, guard: Guard, metrics_guards: list[Guard]) -> APIRouter:
    router = APIRouter(tags=["operation"])

    @router.get("/health", summary="Health", responses={503: {"model": Health, "description": "Not ready."}})
    async def health(response: Response) -> Health:
        """What the service is, and whether it takes images; 200 only then."""
        served, status = service.served, service.status
        response.status_code = 200 if status == "ready" else 503
        return Health(
            status=status,
            detector=served.version,
            alpha=served.detector.alpha,
            n_calibration=len(served.detector.calibration),
            weighted=served.detector.calibration.needs_adapt,
            n_classes=served.n_classes,
            image_shape=list(service.image_shape),
            waiting=service.waiting,
        )

    @router.get(
        "/metrics",
        summary="Metrics",
        response_class=Response,
        responses=told({401: PROBLEMS[401]}) | {200: {"content": {"text/plain": {}}}},
        dependencies=metrics_guards,
    )
    def exposition() -> Response:
        """Counters in Prometheus' text format."""
        return Response(service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    @router.get("/drift", summary="Drift", responses=told({401: PROBLEMS[401]}), dependencies=[guard])
    def drift() -> DriftAnswer:
        """Verdicts in windows, and the evidence in each that images are not like the calibration images."""
        return DriftAnswer(windows=service.served.drift.windows())

    @router.post("/reload", summary="Reload the detector", responses=told(RELOAD_PROBLEMS), dependencies=[guard])
    async def reload() -> Reloaded:
        """Load classifier and detector anew from their files, check them, and put them in force. Requests in work are
        finished by the detector before; where the new one can't serve, it stays."""
        return await service.reload()

    return router
