"""Standard output that may be a pipe, whose reader may end first."""

import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Pipe(io.FileIO):
    def write(self, data: "ReadableBuffer") -> int:
        try:
            return super().write(data)
        except BrokenPipeError:  # as the documentation of Python's `signal` says
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())  # for what is still to be flushed
            sys.exit(1)


def end_with_the_reader() -> None:
    """Let the process end without a word once whatever reads its output has ended, such as `head`.

    What writes is not asked: Hydra and `logging` would catch the error of a broken pipe, and tell all of it. Whoever
    calls this flushes `sys.stdout` before the process ends, when nothing could be caught any more.
    """
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper):
        by_line = out.line_buffering or out.write_through
        pipe = io.BufferedWriter(_Pipe(out.fileno(), "wb", closefd=False))
        sys.stdout = io.TextIOWrapper(pipe, out.encoding, out.errors, line_buffering=by_line)
