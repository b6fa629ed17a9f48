"""From the body of a request to its images. Whatever a stranger sends, the answer is images or a 400."""

import base64
import binascii
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from fastapi import HTTPException
from numpy.typing import NDArray
from pydantic import ValidationError

from trainers.data.images import ImageShape
from trainers.serve.images import ImageRejected
from trainers.serve.inference.protocol import INPUT, InferRequest, RequestInput
from trainers.serve.service import Received

DTYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "UINT8": np.dtype("u1")}
SHARED_MEMORY = "shared_memory_region"


@dataclass
class Reader:
    """Reads requests."""

    image_shape: ImageShape  # of the images of a tensor
    max_images: int
    receive: Callable[[bytes], Received]  # from the bytes of a file to an image; raises `ImageRejected`

    def __call__(self, body: bytes, header_length: int | None) -> tuple[InferRequest, list[Received]]:
        """Message and images of a body, whose first `header_length` bytes are JSON, all of it where None.

        Raises:
            HTTPException: 400 what does not fit the protocol or the model.
            ImageRejected: an encoded image that is none.
        """
        end = len(body) if header_length is None else header_length
        if end > len(body):
            raise _bad(f"the header's length: expected at most the {len(body)} bytes of the body; got {end}")
        try:
            asked = InferRequest.model_validate_json(body[:end])
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise _bad(f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}") from error
        sent = _only_input(asked.inputs)
        size = sent.parameters.get("binary_data_size")
        raw = body[end:] if size is not None else None
        if size is None:
            if end < len(body):
                raise _bad(
                    f"expected no bytes behind the JSON, as no input has a binary_data_size; got {len(body) - end}"
                )
        elif type(size) is not int or size != len(body) - end:
            raise _bad(f"binary_data_size: expected the {len(body) - end} bytes behind the JSON; got {size!r:.40}")
        if (sent.data is None) == (raw is None):
            raise _bad(f"input {INPUT!r}: expected either data or a binary_data_size")
        return asked, self._files(sent, raw) if sent.datatype == "BYTES" else self._tensor(sent, raw)

    def _check_number(self, n: int) -> None:
        if not 1 <= n <= self.max_images:
            raise _bad(f"input {INPUT!r}: expected 1 to {self.max_images} images; got {n}: send several requests")

    def _tensor(self, sent: RequestInput, raw: bytes | None) -> list[Received]:
        if sent.datatype not in DTYPES:
            raise _bad(f"input {INPUT!r}: expected datatype FP32, UINT8 or BYTES; got {sent.datatype[:40]!r}")
        if len(sent.shape) != 4 or tuple(sent.shape[1:]) != self.image_shape:
            shape = ", ".join(map(str, self.image_shape))
            raise _bad(
                f"input {INPUT!r}: expected shape [N, {shape}] (images, channels, rows, columns); got {sent.shape}"
            )
        self._check_number(sent.shape[0])
        pixels = _from_json(sent) if raw is None else _from_bytes(sent, raw)
        if pixels.dtype.kind == "f":
            if not np.isfinite(pixels).all():
                raise _bad(f"input {INPUT!r}: expected finite numbers; got NaN or infinity")
            if pixels.min() < 0 or pixels.max() > 1:
                raise _bad(
                    f"input {INPUT!r}: expected FP32 from 0, black, to 1, white; got {pixels.min():g} to "
                    f"{pixels.max():g}: divide by the largest value, or send UINT8"
                )
        return [Received(hashlib.sha256(image.tobytes()).hexdigest(), torch.from_numpy(image)) for image in pixels]

    def _files(self, sent: RequestInput, raw: bytes | None) -> list[Received]:
        if len(sent.shape) not in (1, 2) or sent.shape[1:] not in ([], [1]):
            raise _bad(f"input {INPUT!r}: expected shape [N] or [N, 1] for BYTES; got {sent.shape}")
        n = sent.shape[0]
        self._check_number(n)
        files = _elements(raw) if raw is not None else [_base64(text) for text in _flat(sent.data or [])[1]]
        if len(files) != n:
            raise _bad(f"input {INPUT!r}: expected {n} elements, as its shape says; got {len(files)}")
        received = []
        for i, file in enumerate(files):
            try:
                received.append(self.receive(file))
            except ImageRejected as error:
                raise ImageRejected(error.status, f"image {i}: {error}") from error
        return received


def _only_input(inputs: Sequence[RequestInput]) -> RequestInput:
    names = [each.name for each in inputs]
    if names != [INPUT]:
        raise _bad(f"inputs: expected one, named {INPUT!r}; got {', '.join(map(repr, names))[:200] or 'none'}")
    if SHARED_MEMORY in inputs[0].parameters:
        raise _bad(f"input {INPUT!r}: shared memory is not supported: send the data")
    return inputs[0]


def _from_bytes(sent: RequestInput, raw: bytes) -> NDArray[Any]:
    dtype, n = DTYPES[sent.datatype], math.prod(sent.shape) * DTYPES[sent.datatype].itemsize
    if len(raw) != n:
        raise _bad(f"input {INPUT!r}: expected {n} bytes for {sent.datatype} of shape {sent.shape}; got {len(raw)}")
    return np.frombuffer(raw, dtype).reshape(sent.shape).copy()  # torch wants memory that may be written


def _from_json(sent: RequestInput) -> NDArray[Any]:
    shape, values = _flat(sent.data or [])
    if not set(map(type, values)) <= {int, float}:
        raise _bad(f"input {INPUT!r}: expected numbers; got other values among them")
    if shape not in ([math.prod(sent.shape)], sent.shape):
        raise _bad(f"input {INPUT!r}: expected data flat, or nested as {sent.shape}; got data nested as {shape[:8]}")
    try:
        found = np.array(values, dtype=np.float64)
    except OverflowError as error:
        raise _bad(f"input {INPUT!r}: expected numbers of 64 bits; got a larger one") from error
    if sent.datatype == "UINT8" and not (found == np.clip(np.floor(found), 0, 255)).all():
        raise _bad(f"input {INPUT!r}: expected UINT8, whole numbers from 0 to 255; got others")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
        return found.astype(DTYPES[sent.datatype]).reshape(sent.shape)


def _flat(data: list[Any]) -> tuple[list[int], list[Any]]:
    """Shape and elements of nested lists; a piece of them that is ragged stays an element."""
    shape = [len(data)]
    while set(map(type, data)) == {list} and len(lengths := set(map(len, data))) == 1:
        shape += lengths
        data = [each for row in data for each in row]
    return shape, data


def _elements(raw: bytes) -> list[bytes]:
    """Elements of BYTES: each behind its length, four bytes, little-endian."""
    found, at = [], 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        if at + 4 > len(raw) or end > len(raw):
            raise _bad(
                f"input {INPUT!r}: expected each element behind its length in four bytes; got one that is cut off"
            )
        found.append(raw[at + 4 : end])
        at = end
    return found


def _base64(text: Any) -> bytes:
    try:
        if isinstance(text, str):
            return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise _bad(
        f"input {INPUT!r}: expected the file of an image in base64; got something else: or send it as binary data"
    )


def _bad(message: str) -> HTTPException:
    return HTTPException(400, message)
