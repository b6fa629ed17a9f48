"""Reading of an upload, of bounded size."""

import asyncio
import re

from fastapi import HTTPException, Request
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect
from starlette.types import Message

MAX_FIELDS = 8  # of a form, beside its file


async def read_upload(request: Request, max_bytes: int, timeout: float) -> bytes:
    """The body, or the file of a multipart form, whatever its field is called.

    Args:
        request: not yet read.
        max_bytes: of the whole body.
        timeout: seconds within which it has to arrive.

    Raises:
        HTTPException: 400 a form that is damaged or has not exactly one file, or a client that left; 408 too slow;
            413 too large.
    """
    declared = request.headers.get("content-length", "")
    if re.fullmatch(r"[0-9]{1,18}", declared) and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    bounded = _bounded(request, max_bytes)
    try:
        async with asyncio.timeout(timeout):
            if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
                return await _file_of_form(bounded)
            return await bounded.body()
    except TimeoutError as error:
        raise HTTPException(408, f"expected the whole body within {timeout:g} seconds") from error
    except FormParserError as error:  # which starlette itself answers only in newer versions
        raise HTTPException(400, f"expected a multipart form; got a damaged one: {error}") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the client left before its body had arrived") from error


async def _file_of_form(request: Request) -> bytes:
    async with request.form(max_files=1, max_fields=MAX_FIELDS) as form:
        files = [value for value in form.values() if isinstance(value, UploadFile)]
        if not files:
            raise HTTPException(400, "expected a form with one file, such as curl -F image=@photo.jpg; got none")
        return await files[0].read()


def _bounded(request: Request, max_bytes: int) -> Request:
    """The same request, whose body breaks off with 413 at the limit, declared or not."""
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise _too_large(max_bytes)
        return message

    return Request(request.scope, receive)


def _too_large(max_bytes: int) -> HTTPException:
    return HTTPException(413, f"expected a body of at most {max_bytes:,} bytes; got more: scale the image down")
