"""The API key."""

import hmac
import os
from typing import Annotated

from fastapi import HTTPException, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

ENVIRONMENT = "GMM_TORCH_API_KEY"
_BEARER = HTTPBearer(auto_error=False, description="the key as a bearer token")
_HEADER = APIKeyHeader(name="X-API-Key", auto_error=False, description="or in a header of its own")


def key_of_environment() -> str | None:
    """The key that requests must carry, see `checked_key`; None where the variable is not set."""
    key = os.environ.get(ENVIRONMENT)
    return None if key is None else checked_key(key)


def checked_key(key: str) -> str:
    """The key, if a header can carry it; ValueError if it is empty, or has spaces or other than ASCII characters."""
    if not (key and key.isascii() and key.isprintable() and " " not in key):
        raise ValueError(
            f"{ENVIRONMENT}: expected printable ASCII characters without spaces; got {len(key)} characters that are "
            "not all such: make a key by `openssl rand -hex 32`, or unset the variable to serve without one"
        )
    return key


class RequireKey:
    """A dependency that lets a request pass if it carries the key, where there is one."""

    def __init__(self, key: str | None) -> None:
        self.key = None if key is None else checked_key(key)

    def __call__(
        self,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)],
        header: Annotated[str | None, Security(_HEADER)],
    ) -> None:
        """Raise 401 unless the request may pass."""
        sent = bearer.credentials if bearer is not None else header
        if self.key is None or (sent is not None and hmac.compare_digest(sent.encode(), self.key.encode())):
            return
        what = "got none" if sent is None else "got another"
        raise HTTPException(
            401,
            f"expected the API key, as `Authorization: Bearer KEY` or `X-API-Key: KEY`; {what}",
            {"WWW-Authenticate": "Bearer"},
        )
