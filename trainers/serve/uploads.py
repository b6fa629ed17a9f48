"""Reading of request bodies, compressed or not, of bounded size."""

import asyncio
import re
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from fastapi import HTTPException, Request
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect
from starlette.types import Message

from trainers.serve.limits import Limits

MAX_FIELDS = 8  # of a form, beside its files
WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""Content-Encoding -> what zlib calls its container (RFC 9110, section 8.4.1)."""


class Upload(NamedTuple):
    """A file as it was sent; the name is the sender's, empty for a body that is the file itself."""

    name: str
    content: bytes


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body, unpacked; 400 damaged, or the client left; 408 too slow; 413 too large; 415 an unknown compression."""
    async with _arriving(request, limits) as bounded:
        return await bounded.body()


async def read_uploads(request: Request, limits: Limits, max_files: int) -> list[Upload]:
    """The body as one file, or the files of a form, whatever its fields are called; 400 for none, or too many."""
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
        raise _too_large(limits.max_bytes)
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
    inflate = _Inflater(request.headers.get("content-encoding", ""), max_bytes)
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        if message["type"] != "http.request":
            return message
        body = message.get("body", b"")
        received += len(body)
        if received > max_bytes:
            raise _too_large(max_bytes)
        return {**message, "body": inflate(body, last=not message.get("more_body", False))}

    return Request(request.scope, receive)


class _Inflater:
    """Unpacks a body piece by piece and breaks off at the bound, however little was sent."""

    def __init__(self, encoding: str, max_bytes: int) -> None:
        encoding = encoding.strip().lower()
        if encoding not in {"", "identity", *WINDOW_BITS}:
            raise HTTPException(415, f"Content-Encoding: expected gzip or deflate; got {encoding[:40]!r}")
        self.max_bytes = self.left = max_bytes
        self.machine = zlib.decompressobj(WINDOW_BITS[encoding]) if encoding in WINDOW_BITS else None

    def __call__(self, piece: bytes, last: bool) -> bytes:
        if self.machine is not None:
            try:
                piece = self.machine.decompress(piece, self.left + 1)
            except zlib.error as error:
                raise HTTPException(400, f"expected a compressed body; got a damaged one: {error}") from error
        self.left -= len(piece)
        if self.left < 0:
            raise _too_large(self.max_bytes)
        if self.machine is not None and (self.machine.unused_data or (last and not self.machine.eof)):
            raise HTTPException(400, "expected a compressed body; got one that is cut off, or goes on behind its end")
        return piece


def _too_large(max_bytes: int) -> HTTPException:
    return HTTPException(
        413, f"expected a body of at most {max_bytes:,} bytes, unpacked; got more: scale images down or send fewer"
    )
