"""Log lines of requests and decisions: one JSON object a line, without a pixel."""

import json
import logging
import re
import sys
import uuid
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from typing import Any

MAX_PATH = 200  # characters of a path that are logged: a stranger chooses it
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


class RequestLog:
    """Writes events as JSON lines.

    Args:
        where: see `log` of `create_app`; a file that is moved away is begun anew, as log rotation needs it.
    """

    def __init__(self, where: str | None = None) -> None:
        self._logger = logging.Logger("trainers.serve.requests")
        if where is not None:
            handler = logging.StreamHandler(sys.stdout) if where == "-" else WatchedFileHandler(where, encoding="utf-8")
            self._logger.addHandler(handler)

    def write(self, event: str, **fields: Any) -> None:
        """Write a line: the time (UTC), the event, the fields; numbers are finite."""
        if self._logger.handlers:
            time = datetime.now(UTC).isoformat(timespec="milliseconds")
            self._logger.info(json.dumps({"time": time, "event": event, **fields}, allow_nan=False))

    def close(self) -> None:
        """Close the file."""
        for handler in self._logger.handlers:
            handler.close()


def request_id(sent: str | None) -> str:
    """The id that a client sent, where it is short and plain, else a new one."""
    return sent if sent is not None and _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex
