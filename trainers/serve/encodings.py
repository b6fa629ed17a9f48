"""Compressed request bodies, unpacked up to a bound."""

import zlib

from fastapi import HTTPException

WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""Content-Encoding -> what zlib calls its container (RFC 9110, section 8.4.1)."""


class Inflater:
    """Unpacks a body piece by piece and breaks off at the bound, however little was sent.

    Args:
        encoding: the request's Content-Encoding; "" for a body as it is.
        max_bytes: of the unpacked body.

    Raises:
        HTTPException: 415 for another encoding; when called, 413 for more bytes, 400 for damaged ones.
    """

    def __init__(self, encoding: str, max_bytes: int) -> None:
        encoding = encoding.strip().lower()
        if encoding not in {"", "identity", *WINDOW_BITS}:
            raise HTTPException(415, f"Content-Encoding: expected gzip or deflate; got {encoding[:40]!r}")
        self.max_bytes = self.left = max_bytes
        self.machine = zlib.decompressobj(WINDOW_BITS[encoding]) if encoding in WINDOW_BITS else None

    def __call__(self, piece: bytes, last: bool) -> bytes:
        """What a piece unpacks to."""
        if self.machine is not None:
            try:
                piece = self.machine.decompress(piece, self.left + 1)
            except zlib.error as error:
                raise HTTPException(400, f"expected a compressed body; got a damaged one: {error}") from error
        self.left -= len(piece)
        if self.left < 0:
            raise too_large(self.max_bytes)
        if self.machine is not None and (self.machine.unused_data or (last and not self.machine.eof)):
            raise HTTPException(400, "expected a compressed body; got one that is cut off, or goes on behind its end")
        return piece


def too_large(max_bytes: int) -> HTTPException:
    """The refusal of a body beyond the bound."""
    return HTTPException(
        413, f"expected a body of at most {max_bytes:,} bytes, unpacked; got more: scale images down or send fewer"
    )
