"""Records of a batch as a row of an Arrow table, which processes of Ray hand to each other."""

import os
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trainers.records.record import Records

if TYPE_CHECKING:
    import pyarrow as pa

_WORDS = ("source", "path", "error")
_NAMES = tuple(each.name for each in fields(Records) if each.name != "features")  # wide, and for pictures alone


def table_of(records: Records) -> "pa.Table":
    """One row: each field of `Records` as a list, but for the features."""
    import pyarrow as pa

    columns = {}
    for name in _NAMES:
        value = getattr(records, name)
        if name in _WORDS:
            kind, values = pa.binary(), [os.fsencode(word) for word in value]
        else:
            kind = (
                pa.float64() if value.is_floating_point() else pa.bool_() if value.dtype == torch.bool else pa.int64()
            )
            values = value.flatten().tolist()
        columns[name] = pa.array([values], pa.list_(kind))
    return pa.table(columns)


def records_of_table(row: "pa.Table") -> Records:
    """What `table_of` made a row of; numbers in the widest type of their kind."""
    columns: dict[str, Any] = {}
    for name in _NAMES:
        values = row[name][0].as_py()
        if name in _WORDS:
            columns[name] = np.array([os.fsdecode(word) for word in values], dtype=object)
        else:
            kinds = {float: torch.float64, bool: torch.bool, int: torch.int64}
            columns[name] = torch.tensor(values, dtype=kinds[type(values[0])] if values else torch.int64)
    n = len(columns["score"])
    columns["components"] = columns["components"].reshape(n, len(columns["components"]) // n)
    return Records(features=torch.empty(n, 0), **columns)
