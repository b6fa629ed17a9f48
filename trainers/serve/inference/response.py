"""From verdicts to the tensors of an answer; none of them holds NaN or infinity."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from fastapi import HTTPException
from numpy.typing import NDArray

from trainers.serve.inference.protocol import InferRequest, InferResponse, ResponseOutput, TensorMetadata
from trainers.serve.predictor import Judged

LOWEST = float(np.finfo("f8").min)


class Column(NamedTuple):
    """One output.

    Attributes:
        datatype: the protocol's name of its type.
        dtype: NumPy's; None for text.
        of: its value for an image.
        each: its shape for an image; -1 is any size.
    """

    datatype: str
    dtype: str | None
    of: Callable[[Judged], Any]
    each: tuple[int, ...] = ()


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


class Wanted(NamedTuple):
    """An output that is asked for, and whether it comes in binary."""

    name: str
    binary: bool


def wanted(asked: InferRequest) -> list[Wanted]:
    """The outputs of an answer, in its order.

    Raises:
        HTTPException: 400 for an output that there is not, or one of another kind than tensors.
    """
    default = asked.parameters.get("binary_data_output", False)
    if asked.outputs is None or not asked.outputs:
        return [Wanted(name, _flag("binary_data_output", default)) for name in OUTPUTS]
    found = []
    for output in asked.outputs:
        if output.name not in OUTPUTS:
            raise HTTPException(400, f"output {output.name[:100]!r}: expected one of {', '.join(OUTPUTS)}")
        for unknown in ("classification", "shared_memory_region"):
            if output.parameters.get(unknown):
                raise HTTPException(400, f"output {output.name!r}: {unknown} is not supported: leave it out")
        found.append(Wanted(output.name, _flag("binary_data", output.parameters.get("binary_data", default))))
    if len({each.name for each in found}) < len(found):
        raise HTTPException(400, "outputs: expected each name once")
    return found


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise HTTPException(400, f"{name}: expected true or false; got {value!r:.40}")
    return value


class Packed(NamedTuple):
    """An answer as it is sent.

    Attributes:
        body: JSON, then binary data.
        header_length: of the JSON; None where nothing follows it.
    """

    body: bytes
    header_length: int | None


def pack(
    judged: Sequence[Judged],
    outputs: Sequence[Wanted],
    model_name: str,
    model_version: str,
    alpha: float,
    id_: str | None,
) -> Packed:
    """The answer to a request: its verdicts (N) as the tensors that it asked for."""
    tensors, binary = [], []
    for name, is_binary in outputs:
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
        model_name=model_name, model_version=model_version, id=id_, parameters={"alpha": alpha}, outputs=tensors
    )
    header = answer.model_dump_json(exclude_none=True).encode()
    return Packed(b"".join([header, *binary]), len(header) if binary else None)


def _numbers(values: Sequence[Any], dtype: str) -> NDArray[Any]:
    with np.errstate(over="ignore", invalid="ignore"):
        array = np.array(values).astype(dtype)
    return np.nan_to_num(array) if array.dtype.kind == "f" else array


def _texts(values: Sequence[bytes]) -> bytes:
    return b"".join(len(text).to_bytes(4, "little") + text for text in values)
