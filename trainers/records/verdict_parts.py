"""A folder of Parquet files with verdicts: one row an image, each file complete or not there."""

import math
import os
import re
import shutil
from array import array
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from gmm_torch.files import atomic_path
from trainers.records.partial import Partial
from trainers.records.record import Record, unreadable
from trainers.records.verdict_file import COLUMNS

ROWS = 2**16
"""Of a file, about: a whole number of batches."""
_PART = re.compile(r"part-\d{5,}\.parquet")


class VerdictParts(Partial):
    """Writes rows to Parquet files in a folder, to be found at `path` once all are there, as `VerdictFile` does.

    The same job, begun again after whatever ended it, goes on behind the files that are there; what it had begun to
    write is removed. Bytes of a path that are no UTF-8 are written as `\\xff`.

    Args:
        path: of the folder; one with verdicts is replaced at the end, and nothing else is.
        job: see `Partial`.
        batch_size: of the rows that `append` is given, but for the last.

    Raises:
        ValueError: PyArrow is missing.
    """

    replaces = "a new folder, or one of verdicts"

    def __init__(self, path: str | os.PathLike[str], job: str, batch_size: int) -> None:
        if find_spec("pyarrow") is None:
            raise ValueError(
                f"output: {path} needs pyarrow: pip install -e '.[ray]', or set an output that ends in .csv"
            )
        super().__init__(path, job)
        self.rows_a_part = -(-ROWS // batch_size) * batch_size
        self._waiting: list[Record] = []

    def __enter__(self) -> Self:
        super().__enter__()
        self.partial.mkdir(exist_ok=True)
        for other in _others(self.partial):
            shutil.rmtree(other) if other.is_dir() else other.unlink()
        return self

    def keep(self, paths: Sequence[str], batch_size: int) -> "array[float]":
        """Drop the files from the first whose rows are not those of `paths`; the scores of the rows that remain.

        The last rows of `paths` are dropped even if they are there, so that something remains to be done.
        """
        import pyarrow.parquet as pq

        scores: array[float] = array("d")
        parts = _parts(self.partial)
        for i, part in enumerate(parts):
            expected = paths[len(scores) : len(scores) + self.rows_a_part]
            goes_on = part == self._part(i) and len(scores) + self.rows_a_part < len(paths)
            try:
                table = pq.read_table(part, columns=["path", "score"]) if goes_on else None
            except (OSError, ValueError):  # damaged since
                table = None
            if table is None or table["path"].to_pylist() != [_text(path) for path in expected]:
                for later in parts[i:]:
                    later.unlink()
                break
            scores.extend(math.nan if score is None else score for score in table["score"].to_pylist())
        self._n_rows = len(scores)
        return scores

    def append(self, rows: Sequence[Record]) -> None:
        """Write the rows of a batch, once they fill a file."""
        self._waiting += rows
        if len(self._waiting) >= self.rows_a_part:
            self._write()

    def finish(self, n_rows: int) -> None:
        """Write the rows that wait, and move all to `path`; see `Partial.finish`."""
        if self._waiting:
            self._write()
        super().finish(n_rows)

    def _is_replaceable(self) -> bool:
        return self.path.is_dir() and not _others(self.path)

    def _part(self, index: int) -> Path:
        return self.partial / f"part-{index:05}.parquet"

    def _write(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows, self._waiting = self._waiting[: self.rows_a_part], self._waiting[self.rows_a_part :]
        columns = [
            pa.array([_text(row.path) for row in rows], pa.string()),
            pa.array([None if row.error else row.class_name for row in rows], pa.string()),
            pa.array([None if row.error else row.score for row in rows], pa.float64()),
            pa.array([None if row.error else row.p_value for row in rows], pa.float64()),
            pa.array([row.accept for row in rows], pa.bool_()),
            pa.array([None if row.error else row.component for row in rows], pa.int64()),
            pa.array([_text(row.error) for row in rows], pa.string()),
        ]
        with atomic_path(self._part(self._n_rows // self.rows_a_part)) as temporary:
            pq.write_table(pa.table(columns, list(COLUMNS)), temporary)
        self._n_rows += len(rows)


def read_parts(path: str | os.PathLike[str]) -> Iterator[Record]:
    """The rows of a folder of verdicts, one by one; ValueError where its files hold none."""
    import pyarrow.parquet as pq

    for part in _parts(Path(path)):
        with pq.ParquetFile(part) as file:
            if tuple(file.schema_arrow.names) != COLUMNS:
                raise ValueError(f"verdicts: expected {part} to have the columns {','.join(COLUMNS)}")
            for batch in file.iter_batches():
                columns: list[list[Any]] = [column.to_pylist() for column in batch.columns]
                for row in map(Record, *columns):
                    yield unreadable(row.path, row.error) if row.error else row


def _parts(folder: Path) -> list[Path]:
    found = [each for each in folder.iterdir() if _PART.fullmatch(each.name)]
    return sorted(found, key=lambda each: (len(each.name), each.name))


def _others(folder: Path) -> list[Path]:
    return [each for each in folder.iterdir() if not _PART.fullmatch(each.name)]


def _text(name: str) -> str:
    return os.fsencode(name).decode(errors="backslashreplace")
