"""What a job writes, until all of it is there."""

import glob
import os
import shutil
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout


def unfinished_files(path: Path) -> list[Path]:
    """What jobs, still at work or ended before they were through, have put beside what they write."""
    escaped = glob.escape(path.stem)
    return sorted(path.parent.glob(f"{escaped}-*.partial{glob.escape(path.suffix)}*"))


class Partial:
    """Holds the place where a job writes until it is through; the job's name is part of the place's.

    Args:
        path: where all is to be found at the end.
        job: letters and digits that stand for everything that rows depend on, except the list of images.

    Raises:
        ValueError: if something else is at `path`, on entering and at the end; on entering, if another process is
            writing the same.
    """

    replaces = ""
    """What may be at `path`."""

    def __init__(self, path: str | os.PathLike[str], job: str) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(f"{self.path.stem}-{job}.partial{self.path.suffix}")
        self._n_rows = 0
        self._lock = FileLock(f"{self.partial}.lock")

    def __enter__(self) -> Self:
        self._check_replaceable()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise ValueError(
                f"output: another run is writing {self.path}; wait for it, or set another output"
            ) from None
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)

    def _check_replaceable(self) -> None:
        if self.path.exists() and not self._is_replaceable():
            raise ValueError(
                f"output: expected {self.replaces} to replace; got {self.path}, which is neither: set another output"
            )

    def _is_replaceable(self) -> bool:
        raise NotImplementedError

    def finish(self, n_rows: int) -> None:
        """Move the rows to `path`; RuntimeError where there are not as many as there should be, which then stay."""
        if self._n_rows != n_rows:
            raise RuntimeError(f"verdicts: expected {n_rows} rows; {self._n_rows} were written to {self.partial}")
        self._check_replaceable()  # it may have come in the meantime
        if self.path.is_dir():
            shutil.rmtree(self.path)
        os.replace(self.partial, self.path)
