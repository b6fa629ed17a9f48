"""The messages of the Open Inference Protocol, version 2, as its REST specification has them."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

INPUT = "input"
HEADER_LENGTH = "Inference-Header-Content-Length"  # of the binary data extension
Size = Annotated[int, Field(ge=0, le=2**31)]


class Message(BaseModel):
    """What clients send: types are taken as they are, and fields of extensions that we do not know are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")


class RequestInput(Message):
    """A tensor of a request."""

    name: str
    datatype: str = Field(description="FP32, UINT8, or BYTES for encoded images")
    shape: list[Size] = Field(max_length=8, description="N, C, H, W; for BYTES N")
    parameters: dict[str, Any] = Field(default_factory=dict, description="binary_data_size: its bytes in the body")
    data: list[Any] | None = Field(default=None, description="row by row, flat or nested; BYTES in base64")


class RequestOutput(Message):
    """A tensor that is asked for."""

    name: str
    parameters: dict[str, Any] = Field(default_factory=dict, description="binary_data: whether it comes in binary")


class InferRequest(Message):
    """A request for verdicts."""

    id: str | None = Field(default=None, max_length=1000, description="comes back in the answer")
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="binary_data_output: whether outputs come in binary unless they say otherwise"
    )
    inputs: list[RequestInput] = Field(max_length=16)
    outputs: list[RequestOutput] | None = Field(default=None, max_length=100, description="all of them where left out")


class ResponseOutput(BaseModel):
    """A tensor of an answer."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] | None = Field(default=None, description="binary_data_size: its bytes in the body")
    data: list[Any] | None = None


class InferResponse(BaseModel):
    """Verdicts on N images."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, float] = Field(description="alpha: at most this share of good images is refused, on average")
    outputs: list[ResponseOutput]


class TensorMetadata(BaseModel):
    """A tensor that the model takes or gives; -1 is any size."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, str] | None = None


class ModelMetadata(BaseModel):
    """What the model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(BaseModel):
    """What the server is."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(BaseModel):
    """Whether the process answers."""

    live: bool


class ServerReady(BaseModel):
    """Whether it takes images."""

    ready: bool


class ModelReady(BaseModel):
    """Whether the model takes images."""

    name: str
    ready: bool


class ProtocolProblem(BaseModel):
    """What was expected, what arrived, what to do."""

    error: str
