"""From verdicts to the tensors of an answer; none of them holds NaN or infinity."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from fastapi import HTTPException, Response
from numpy.typing import NDArray

from trainers.serve.inference.protocol import (
    HEADER_LENGTH,
    InferRequest,
    InferResponse,
    ResponseOutput,
    TensorMetadata,
)
from trainers.serve.predictor import Judged
from trainers.serve.served import Served

LOWEST = float(np.finfo("f8").min)


class Column(NamedTuple):
    """One output."""

    datatype: str  # as the protocol calls it
    dtype: str | None  # NumPy's; None for text
    of: Callable[[Judged], Any]  # its value for an image
    each: tuple[int, ...] = ()  # its shape for an image; -1 is any size


OUTPUTS = {
    "prediction": Column("INT64", "<i8", lambda judged: judged.record.prediction),
    "class_name": Column("BYTES", None, lambda judged: judged.record.class_name.encode()),
    "logits": Column("FP32", "<f4", lambda judged: judged.logits.numpy(), (-1,)),
    "probability": Column("FP64", "<f8", lambda judged: judged.record.max_softmax),
    "score": Column("FP64", "<f8", lambda judged: judged.record.score if judged.record.finite else LOWEST),
    "p_value": Column("FP64", "<f8", lambda judged: judged.record.p_value if judged.record.finite else 0.0),
    "accept": Column("BOOL", "?", lambda judged: judged.record.accept),
    "finite": Column("BOOL", "?", lambda judged: judged.record.finite),
}
"""Where `finite` is false, p_value is 0, score the lowest number, and NaN elsewhere 0."""


def outputs_metadata() -> list[TensorMetadata]:
    """The outputs as the model's metadata tell them."""
    return [TensorMetadata(name=name, datatype=each.datatype, shape=[-1, *each.each]) for name, each in OUTPUTS.items()]


def wanted(asked: InferRequest) -> dict[str, bool]:
    """The outputs of an answer, in its order, and whether each comes in binary.

    Raises:
        HTTPException: 400 for an output that there is not, or one of another kind than tensors.
    """
    default = asked.parameters.get("binary_data_output", False)
    if not asked.outputs:
        return dict.fromkeys(OUTPUTS, _flag("binary_data_output", default))
    found: dict[str, bool] = {}
    for output in asked.outputs:
        if output.name not in OUTPUTS:
            raise HTTPException(400, f"output {output.name[:100]!r}: expected one of {', '.join(OUTPUTS)}")
        for unknown in ("classification", "shared_memory_region"):
            if output.parameters.get(unknown):
                raise HTTPException(400, f"output {output.name!r}: {unknown} is not supported: leave it out")
        found[output.name] = _flag("binary_data", output.parameters.get("binary_data", default))
    if len(found) < len(asked.outputs):
        raise HTTPException(400, "outputs: expected each name once")
    return found


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise HTTPException(400, f"{name}: expected true or false; got {value!r:.40}")
    return value


def pack(
    judged: Sequence[Judged], outputs: Mapping[str, bool], model_name: str, served: Served, id_: str | None
) -> Response:
    """The answer to a request: its verdicts (N) as the tensors that it asked for, JSON and then binary data."""
    tensors, binary = [], []
    for name, is_binary in outputs.items():
        column = OUTPUTS[name]
        values = [column.of(each) for each in judged]
        array = None if column.dtype is None else _numbers(values, column.dtype)
        shape = [len(judged)] if array is None else list(array.shape)
        tensor = ResponseOutput(name=name, datatype=column.datatype, shape=shape)
        if is_binary:
            binary.append(_texts(values) if array is None else array.tobytes())
            tensor.parameters = {"binary_data_size": len(binary[-1])}
        else:
            tensor.data = [text.decode() for text in values] if array is None else array.ravel().tolist()
        tensors.append(tensor)
    answer = InferResponse(
        model_name=model_name,
        model_version=served.version,
        id=id_,
        parameters={"alpha": served.detector.alpha},
        outputs=tensors,
    )
    header = answer.model_dump_json(exclude_none=True).encode()
    if not binary:
        return Response(header, media_type="application/json")
    headers = {HEADER_LENGTH: str(len(header))}
    return Response(b"".join([header, *binary]), headers=headers, media_type="application/octet-stream")


def _numbers(values: Sequence[Any], dtype: str) -> NDArray[Any]:
    with np.errstate(over="ignore", invalid="ignore"):
        array = np.array(values).astype(dtype)
    return np.nan_to_num(array) if array.dtype.kind == "f" else array


def _texts(values: Sequence[bytes]) -> bytes:
    return b"".join(len(text).to_bytes(4, "little") + text for text in values)
