"""Middleware: counts and times requests, sets security headers."""

import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trainers.serve.metrics import Metrics

HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Watched:
    """An ASGI application whose requests are counted, by path and status.

    Args:
        app: the application.
        metrics: where they are counted.
        paths: those counted by name; others are counted together, or a stranger could make up any number of them.
        policy: the content security policy of every answer.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str], policy: str) -> None:
        self.app = app
        self.metrics = metrics
        self.paths = paths
        self.headers = HEADERS | {"content-security-policy": policy}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(self.headers)
            await send(message)

        path = scope["path"] if scope["path"] in self.paths else "other"
        try:
            await self.app(scope, receive, watched)
        finally:
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - start)
