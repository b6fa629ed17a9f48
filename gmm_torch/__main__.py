"""The command `gmm-torch`, or `python -m gmm_torch`: the application, whatever else stands where it is run."""

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

HOME = Path(__file__).parent.parent  # this package and the application `trainers` are installed side by side


def find_application() -> None:
    """Let `trainers` be ours, here and in processes to come, and let the working directory be looked in as well.

    Where a user's own folder `trainers` stands on the path, ours is put before it, and the modules in theirs are still
    found (`trainers.__path__`). Nothing moves where there is none.
    """
    here = os.getcwd()
    if here not in map(os.path.abspath, sys.path):
        sys.path.append(here)
    others = (place for place in sys.path if any(Path(place, "trainers").glob("*.py")))
    if sys.path[0] != str(HOME) and not all(HOME.samefile(place or here) for place in others):
        sys.path.insert(0, str(HOME))
        given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(HOME), *filter(None, given), here])
        os.environ["PYTHONSAFEPATH"] = "1"  # or `python -m` of a process to come would look here first


class _Pipe(io.FileIO):
    def write(self, data: "ReadableBuffer") -> int:
        try:
            return super().write(data)
        except BrokenPipeError:  # as the documentation of Python's `signal` says
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())  # for what is still to be flushed
            sys.exit(1)


def end_with_the_reader() -> None:
    """Let the process end without a word once whatever reads its output has ended, such as `head`.

    What writes is not asked: Hydra and `logging` would catch the error of a broken pipe, and tell all of it.
    """
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper):
        by_line = out.line_buffering or out.write_through
        pipe = io.BufferedWriter(_Pipe(out.fileno(), "wb", closefd=False))
        sys.stdout = io.TextIOWrapper(pipe, out.encoding, out.errors, line_buffering=by_line)


def main() -> None:
    """Run the application."""
    find_application()
    end_with_the_reader()
    from trainers.main import main as run

    try:
        run()
    finally:
        sys.stdout.flush()


if __name__ == "__main__":
    main()
