"""The CSV of verdicts: one row an image, complete or not there."""

import csv
import io
import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, Self

from trainers.records.partial import Partial
from trainers.records.record import Record, unreadable

# `prediction` is the name of the class; it, score, p_value and component are empty where the image can't be read
COLUMNS = ("path", "prediction", "score", "p_value", "accept", "component", "error")


def read_csv(path: str | os.PathLike[str]) -> Iterator[Record]:
    """The rows of a CSV, one by one; ValueError where it is no CSV of verdicts."""
    with open(path, "rb") as file:
        rows = _whole_rows(file)
        if tuple(next(rows, ((), 0))[0]) != COLUMNS:
            raise ValueError(f"verdicts: expected {path} to begin with {','.join(COLUMNS)}")
        for row, _ in rows:
            yield _parsed(row)


class VerdictFile(Partial):
    """Writes rows, to be found at `path` once all are there.

    Until then they are in a file beside it, whose name tells the job. The same job, begun again after whatever ended
    it, goes on behind the last whole batch there: so its batches, and its bytes, are those of a job never ended.

    Args:
        path: of the CSV; one that exists is replaced at the end, and no other kind of file is.
        job: see `Partial`.
    """

    replaces = "a new file, or a CSV of verdicts"

    def __init__(self, path: str | os.PathLike[str], job: str) -> None:
        super().__init__(path, job)
        self._file: BinaryIO

    def __enter__(self) -> Self:
        super().__enter__()
        self._file = open(self.partial, "a+b")
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        super().__exit__(*error)

    def _is_replaceable(self) -> bool:
        if self.path.is_dir():
            return False
        header = ",".join(COLUMNS).encode()
        with open(self.path, "rb") as file:
            return file.read(len(header)) in (b"", header)

    def keep(self, paths: Sequence[str], batch_size: int) -> "array[float]":
        """Drop all behind the last whole batch of `paths`; the scores of the rows that remain, in their order.

        The last batch of `paths` is dropped even if it is there, so that something remains to be done.
        """
        scores: array[float] = array("d")
        self._file.seek(0)
        rows = _until_damaged(_whole_rows(self._file))
        header, end = next(rows, ([], 0))
        if tuple(header) != COLUMNS:
            self._file.truncate(0)
            self._write([COLUMNS])
            return scores
        for (row, behind), path in zip(rows, paths, strict=False):
            try:
                verdict = _parsed(row)
            except ValueError:
                break
            if verdict.path != path:
                break
            scores.append(verdict.score)
            if len(scores) % batch_size == 0 and len(scores) < len(paths):
                self._n_rows, end = len(scores), behind
        self._file.truncate(end)
        return scores[: self._n_rows]

    def append(self, rows: Sequence[Record]) -> None:
        """Write the rows of a batch at once."""
        self._n_rows += len(rows)
        self._write(map(_cells, rows))

    def _write(self, rows: Any) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows)
        self._file.write(os.fsencode(text.getvalue()))
        self._file.flush()


def _whole_rows(file: BinaryIO) -> Iterator[tuple[list[str], int]]:
    """Rows, each with the place where it ends; a last line without its end is no row.

    Raises:
        ValueError: quotes are not those of a CSV, or not closed, as where a file was cut behind a line break in a cell.
    """
    place = 0

    def lines() -> Iterator[str]:
        nonlocal place
        for line in file:
            if not line.endswith(b"\n"):
                return
            place += len(line)
            yield os.fsdecode(line)

    try:
        for row in csv.reader(lines(), strict=True):
            yield row, place
    except csv.Error as error:
        raise ValueError(
            f"verdicts: expected rows of a CSV; got damaged ones ({error}): score the images again"
        ) from error


def _until_damaged(rows: Iterator[tuple[list[str], int]]) -> Iterator[tuple[list[str], int]]:
    with suppress(ValueError):
        yield from rows


def _cells(row: Record) -> tuple[object, ...]:
    if row.error:
        return row.path, "", "", "", row.accept, "", row.error
    return row.path, row.class_name, f"{row.score:.9g}", repr(row.p_value), row.accept, row.component, row.error


def _parsed(row: list[str]) -> Record:
    if len(row) != len(COLUMNS) or row[4] not in ("True", "False"):
        raise ValueError(f"verdicts: expected rows of {','.join(COLUMNS)}; got {row}")
    path, class_name, score, p_value, accept, component, error = row
    if error:
        return unreadable(path, error)
    return Record(path, class_name, float(score), float(p_value), accept == "True", int(component), error)
