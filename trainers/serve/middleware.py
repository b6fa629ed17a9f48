"""Middleware: gives requests ids, counts, times and logs them, sets security headers."""

import time
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trainers.serve.metrics import Metrics
from trainers.serve.request_log import MAX_PATH, RequestLog, request_id

HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cache-control": "no-store"}
POLICY = "content-security-policy"
QUIET = {"/health", "/v2/health/live", "/v2/health/ready", "/metrics"}  # asked every few seconds: logged if they fail


@dataclass
class Watched:
    """An ASGI application whose requests are counted by the path of their route and by status, and logged.

    Those of no route are counted together, or a stranger could make up any number of paths.
    """

    app: ASGIApp
    metrics: Metrics
    log: RequestLog
    policy: str  # the content security policy of answers that bring none of their own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status, n_bytes = 500, 0
        id_ = request_id(Headers(scope=scope).get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = id_

        async def watched(message: Message) -> None:
            nonlocal status, n_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS | {"x-request-id": id_})
                headers.setdefault(POLICY, self.policy)
            n_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            seconds = time.perf_counter() - start
            path = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(seconds)
            if path not in QUIET or status != 200:
                client = scope.get("client")
                self.log.write(
                    "access",
                    request_id=id_,
                    client=client[0] if client else None,
                    method=scope["method"],
                    path=scope["path"][:MAX_PATH],
                    status=status,
                    bytes=n_bytes,
                    seconds=round(seconds, 6),
                )
