"""Verdicts on disk: a CSV, or a folder of Parquet files, as the name of the output says; and their summary."""

import heapq
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from trainers.records.record import Record
from trainers.records.verdict_file import VerdictFile, read_csv
from trainers.records.verdict_parts import VerdictParts, read_parts

N_NAMED = 3  # files that can't be read, whose names are told in any case

Output = VerdictFile | VerdictParts


def output_of(path: Path, job: str, batch_size: int) -> Output:
    """What writes to a path: Parquet where it ends in `.parquet`, else CSV."""
    return VerdictParts(path, job, batch_size) if _is_parquet(path) else VerdictFile(path, job)


def read_verdicts(path: str | os.PathLike[str]) -> Iterator[Record]:
    """The rows of a file or folder of verdicts, one by one; ValueError where it holds none."""
    return read_parts(path) if _is_parquet(Path(path)) else read_csv(path)


def _is_parquet(path: Path) -> bool:
    return path.suffix == ".parquet"


class VerdictSummary(NamedTuple):
    """What verdicts on disk come to; 4 bytes an image."""

    n: int
    n_refused: int  # those that can't be read among them
    n_unreadable: int
    p_values: "array[float]"  # of the images that can be read
    refused: list[Record]  # that can be read, the least typical first; as many as were asked for
    unreadable: list[Record]  # the first; as many as were asked for, and `N_NAMED` at least


def summarize_verdicts(path: str | os.PathLike[str], n_shown: int = 0) -> VerdictSummary:
    """Read verdicts once, row by row, and keep so many of the refused ones, and of those that can't be read."""
    n = n_refused = n_unreadable = 0
    p_values: array[float] = array("f")
    unreadable: list[Record] = []

    def refused() -> Iterator[Record]:
        nonlocal n, n_refused, n_unreadable
        for row in read_verdicts(path):
            n += 1
            n_refused += not row.accept
            if row.error:
                n_unreadable += 1
                if len(unreadable) < max(n_shown, N_NAMED):
                    unreadable.append(row)
            else:
                p_values.append(row.p_value)
                if not row.accept:
                    yield row

    # At least one, since asking for none would read nothing.
    shown = heapq.nsmallest(max(1, n_shown), refused(), key=lambda row: (row.p_value, row.score))[:n_shown]
    return VerdictSummary(n, n_refused, n_unreadable, p_values, shown, unreadable)
