"""When image files were last changed, for alarms over windows of time."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from trainers.data.errors import DataNotFoundError


def file_times(paths: Iterable[str]) -> Tensor:
    """(N,) float64, in seconds since 1970.

    Raises:
        DataNotFoundError: what is no file has no time, such as an image within a tar or a table.
    """
    times = []
    for path in paths:
        try:
            times.append(os.stat(path).st_mtime)
        except OSError as error:
            raise DataNotFoundError(
                f"drift: expected files, whose time of change says when they came; got {path}, which is none: choose "
                "drift=reference, or unpack the images"
            ) from error
    return torch.tensor(times, dtype=torch.float64)


def times_of(records: Any) -> Tensor:
    """`file_times` of records of files, whose `path` has theirs."""
    return file_times(records.path)


def arrival_times(paths: Sequence[str]) -> Tensor:
    """`file_times`; ValueError where a file was changed before the one that it comes after."""
    times = file_times(paths)
    back = (times.diff() < 0).nonzero()
    if len(back):
        i = int(back[0, 0]) + 1
        raise ValueError(
            f"drift: expected images in the order in which they were last changed; got {paths[i]} after "
            f"{paths[i - 1]}, which is newer: give input= a text file that lists them in the order of arrival"
        )
    return times
