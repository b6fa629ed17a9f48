"""The HTTP server."""

import contextlib
import logging
import signal
import socket
import threading
from types import FrameType

import uvicorn
from fastapi import FastAPI

from trainers.serve.service import Service

log = logging.getLogger(__name__)

GRACE = 30  # seconds that requests in work are given at the end


class _Server(uvicorn.Server):
    """A server that, told to end by SIGTERM, is no longer ready, but takes requests for `drain` seconds more.

    Who routes requests hears of it in that time, as Kubernetes does; then requests in work are finished. SIGINT, or a
    second SIGTERM, ends it at once.
    """

    def __init__(self, config: uvicorn.Config, service: Service, drain: float) -> None:
        super().__init__(config)
        self.service = service
        self.drain = drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal."""
        if sig != signal.SIGTERM:
            super().handle_exit(sig, frame)
            return
        if self.service.draining:
            self.should_exit = True
            return
        self.service.draining = True
        log.info("told to end: no longer ready, and gone in %g seconds", self.drain)
        timer = threading.Timer(self.drain, setattr, (self, "should_exit", True))
        timer.daemon = True
        timer.start()


def run_app(app: FastAPI, host: str, port: int, drain: float = 0.0) -> None:
    """Serve until the process is told to end (SIGINT or SIGTERM); requests in work are finished first.

    SIGHUP reloads the detector, where the platform has that signal.

    Args:
        host: an address of this machine; "0.0.0.0" or "::" for all of them.
        port: 0 for any free one, which the log tells.
        drain: seconds between SIGTERM and the end, in which the service says that it is not ready.

    Raises:
        ValueError: the address can't be had.
    """
    if not drain >= 0:
        raise ValueError(f"task.drain: expected seconds >= 0; got {drain!r}")
    listener = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    log.info("listening on http://%s:%d (Ctrl-C ends it)", shown, listener.getsockname()[1])
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )
    service: Service = app.state.service
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda *_: service.reload_soon())
    with listener, contextlib.suppress(KeyboardInterrupt):
        _Server(config, service, drain).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"can't listen on {host}, port {port} ({error}): choose another with task.host or task.port"
        ) from error
