"""The HTTP server."""

import contextlib
import logging
import socket

import uvicorn
from fastapi import FastAPI

log = logging.getLogger(__name__)

GRACE = 30  # seconds that requests in work are given at the end


def run_app(app: FastAPI, host: str, port: int) -> None:
    """Serve until the process is told to end (SIGINT or SIGTERM); requests in work are finished first.

    Args:
        app: the application.
        host: an address of this machine; "0.0.0.0" or "::" for all of them.
        port: 0 for any free one, which the log tells.

    Raises:
        ValueError: the address can't be had.
    """
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
    with listener, contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"can't listen on {host}, port {port} ({error}): choose another with task.host or task.port"
        ) from error
