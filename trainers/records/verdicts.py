"""Verdicts on disk: a CSV, or a folder of Parquet files, as the name of the output says."""

import os
from collections.abc import Iterator
from pathlib import Path

from trainers.records.record import Record
from trainers.records.verdict_file import VerdictFile, read_csv
from trainers.records.verdict_parts import VerdictParts, read_parts

Output = VerdictFile | VerdictParts


def output_of(path: Path, job: str, batch_size: int) -> Output:
    """What writes to a path: Parquet where it ends in `.parquet`, else CSV."""
    return VerdictParts(path, job, batch_size) if _is_parquet(path) else VerdictFile(path, job)


def read_verdicts(path: str | os.PathLike[str]) -> Iterator[Record]:
    """The rows of a file or folder of verdicts, one by one.

    Raises:
        ValueError: it holds no verdicts.
    """
    return read_parts(path) if _is_parquet(Path(path)) else read_csv(path)


def _is_parquet(path: Path) -> bool:
    return path.suffix == ".parquet"
