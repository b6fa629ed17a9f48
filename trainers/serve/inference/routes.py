"""The routes of the Open Inference Protocol."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.params import Depends

import gmm_torch
from trainers.serve.answers import told
from trainers.serve.inference.protocol import (
    HEADER_LENGTH,
    INPUT,
    InferResponse,
    ModelMetadata,
    ModelReady,
    ProtocolProblem,
    ServerLive,
    ServerMetadata,
    ServerReady,
    TensorMetadata,
)
from trainers.serve.inference.request import Reader
from trainers.serve.inference.response import outputs_metadata, pack, wanted
from trainers.serve.served import Served
from trainers.serve.service import Service
from trainers.serve.uploads import read_body

LOCKED = told({401: "The API key is missing or wrong."}, ProtocolProblem)
MODEL = "/models/{model_name}"
VERSION = MODEL + "/versions/{version}"
UNKNOWN = LOCKED | told({404: "No such model or version."}, ProtocolProblem)
BODY = {
    "required": True,
    "description": f"JSON; binary tensors may follow it, where `{HEADER_LENGTH}` says where it ends",
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
}


def health_routes(service: Service) -> APIRouter:
    """Live and ready, which no key guards."""
    router = APIRouter(prefix="/v2/health", tags=["health"])

    @router.get("/live", summary="Live")
    async def live() -> ServerLive:
        """Whether the process answers: 200, or no answer at all. Restart it then."""
        return ServerLive(live=True)

    @router.get(
        "/ready", summary="Ready", responses={503: {"model": ServerReady, "description": "Send no images now."}}
    )
    async def ready(response: Response) -> ServerReady:
        """Whether it takes images: the model is loaded and has judged a batch, none has stalled, and the process is
        not about to end."""
        is_ready = service.status == "ready"
        response.status_code = 200 if is_ready else 503
        return ServerReady(ready=is_ready)

    return router


def inference_routes(service: Service, name: str, problems: dict[int, str], guards: Sequence[Depends]) -> APIRouter:
    """Metadata of a model, and inference, whose refusals are `problems`; all routes are behind the guards."""
    router = APIRouter(prefix="/v2", tags=["open inference protocol"], dependencies=list(guards))
    read = Reader(service.image_shape, service.limits.most_images, service.receive)

    def served(model_name: str, version: str | None) -> Served:
        """The detector in force, if it is the one that is asked for."""
        if model_name != name:
            raise HTTPException(404, f"model: expected {name!r}; got {model_name[:100]!r}")
        if version is not None and version != service.served.version:
            raise HTTPException(404, f"version: expected {service.served.version!r}, in force; got {version[:100]!r}")
        return service.served

    @router.get("", summary="Server metadata", responses=LOCKED)
    async def server() -> ServerMetadata:
        """Name, version and extensions of the server."""
        return ServerMetadata(name="gmm_torch", version=gmm_torch.__version__, extensions=["binary_tensor_data"])

    metadata: dict[str, Any] = {"responses": UNKNOWN, "response_model_exclude_none": True}

    @router.get(MODEL, summary="Model metadata", **metadata)
    @router.get(VERSION, summary="Model metadata, of a version", **metadata)
    async def model(model_name: str, version: str | None = None) -> ModelMetadata:
        """What the model takes and gives. Its version names the detector in force: a reload changes it."""
        forms = {
            "range": "0 to 1",
            "or": "UINT8 of that shape, 0 to 255; BYTES of shape [-1], each the file of an image",
        }
        images = TensorMetadata(name=INPUT, datatype="FP32", shape=[-1, *service.image_shape], parameters=forms)
        versions = [served(model_name, version).version]
        return ModelMetadata(
            name=name, versions=versions, platform="pytorch", inputs=[images], outputs=outputs_metadata()
        )

    not_ready = UNKNOWN | {503: {"model": ModelReady, "description": "Send no images now."}}

    @router.get(f"{MODEL}/ready", summary="Model ready", responses=not_ready)
    @router.get(f"{VERSION}/ready", summary="Model ready, of a version", responses=not_ready)
    async def model_ready(model_name: str, response: Response, version: str | None = None) -> ModelReady:
        """Whether the model takes images."""
        served(model_name, version)
        is_ready = service.status == "ready"
        response.status_code = 200 if is_ready else 503
        return ModelReady(name=name, ready=is_ready)

    inference: dict[str, Any] = {
        "response_model": InferResponse,
        "responses": told(problems, ProtocolProblem) | UNKNOWN,
        "openapi_extra": {"requestBody": BODY},
    }

    @router.post(f"{MODEL}/infer", summary="Infer", **inference)
    @router.post(f"{VERSION}/infer", summary="Infer, by a version", **inference)
    async def infer(request: Request, model_name: str, version: str | None = None) -> Response:
        """Verdicts on images: the tensor `input`, FP32 or UINT8 (N, C, H, W), or BYTES (N), the files of images.

        Features are `prediction`, `class_name`, `logits`, `probability`, `score`, `p_value`, `accept` and `finite`;
        where `finite` is false, the image is refused, p_value is 0 and score the lowest number.
        """
        served(model_name, version)
        length = _header_length(request)
        with service.admitted(request) as job:
            body = await read_body(request, service.limits)
            asked, images = await job.read(lambda sent: read(sent, length), body)
            outputs = wanted(asked)
            job.take(len(images))
            service.metrics.request_images.observe(len(images))
            judged = await asyncio.gather(
                *(job.judge(image, False, i) for i, image in enumerate(images)), return_exceptions=True
            )
            for i, error in enumerate(judged):
                if isinstance(error, HTTPException):
                    raise HTTPException(error.status_code, f"image {i}: {error.detail}", error.headers) from error
                if isinstance(error, BaseException):
                    raise error
            return pack(judged, outputs, name, job.served, asked.id)  # type: ignore[arg-type]

    return router


def _header_length(request: Request) -> int | None:
    sent = request.headers.get(HEADER_LENGTH)
    if sent is None:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", sent):
        raise HTTPException(400, f"{HEADER_LENGTH}: expected a number of bytes; got {sent[:40]!r}")
    return int(sent)
