"""Reading of request bodies, of bounded size."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from fastapi import HTTPException, Request
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect
from starlette.types import Message

from trainers.serve.encodings import Inflater, too_large
from trainers.serve.limits import Limits

MAX_FIELDS = 8  # of a form, beside its files


class Upload(NamedTuple):
    """A file as it was sent.

    Attributes:
        name: the sender's; empty for a body that is the file itself.
        content: its bytes.
    """

    name: str
    content: bytes


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body, unpacked where it is compressed.

    Raises:
        HTTPException: 400 damaged, or a client that left; 408 too slow; 413 too large; 415 an unknown compression.
    """
    async with _arriving(request, limits) as bounded:
        return await bounded.body()


async def read_uploads(request: Request, limits: Limits, max_files: int) -> list[Upload]:
    """The body as one file, or the files of a multipart form, whatever its fields are called.

    Raises:
        HTTPException: as of `read_body`; 400 for a form without files, or with more than `max_files`.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return [Upload("", await read_body(request, limits))]
    async with (
        _arriving(request, limits) as bounded,
        bounded.form(max_files=max_files, max_fields=MAX_FIELDS) as form,
    ):
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if not files:
            raise HTTPException(400, "expected a form with one file, such as curl -F image=@photo.jpg; got none")
        return [Upload(file.filename or "", await file.read()) for file in files]


@asynccontextmanager
async def _arriving(request: Request, limits: Limits) -> AsyncIterator[Request]:
    """The request, whose body must arrive within its bounds inside the block."""
    declared = request.headers.get("content-length", "")
    if re.fullmatch(r"[0-9]{1,18}", declared) and int(declared) > limits.max_bytes:
        raise too_large(limits.max_bytes)
    try:
        async with asyncio.timeout(limits.timeout):
            yield _bounded(request, limits.max_bytes)
    except TimeoutError as error:
        raise HTTPException(408, f"expected the whole body within {limits.timeout:g} seconds") from error
    except FormParserError as error:  # which starlette itself answers only in newer versions
        raise HTTPException(400, f"expected a multipart form; got a damaged one: {error}") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the client left before its body had arrived") from error


def _bounded(request: Request, max_bytes: int) -> Request:
    """The same request, unpacked, whose body breaks off with 413 at the limit, declared or not."""
    inflate = Inflater(request.headers.get("content-encoding", ""), max_bytes)
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        if message["type"] != "http.request":
            return message
        body = message.get("body", b"")
        received += len(body)
        if received > max_bytes:
            raise too_large(max_bytes)
        return {**message, "body": inflate(body, last=not message.get("more_body", False))}

    return Request(request.scope, receive)
