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
            columns[name] = pa.array([[os.fsencode(word) for word in value]], pa.list_(pa.binary()))
        else:
            numbers = value.double() if value.is_floating_point() else value
            columns[name] = pa.array([numbers.flatten().numpy()])
    return pa.table(columns)


def records_of_table(row: "pa.Table") -> Records:
    """What `table_of` made a row of; numbers in the widest type of their kind."""
    columns: dict[str, Any] = {}
    for name in _NAMES:
        values = row[name][0].values
        if name in _WORDS:
            columns[name] = np.array([os.fsdecode(word) for word in values.to_pylist()], dtype=object)
        else:
            columns[name] = torch.tensor(values.to_numpy(zero_copy_only=False))
    n = len(columns["score"])
    columns["components"] = columns["components"].reshape(n, len(columns["components"]) // n)
    return Records(features=torch.empty(n, 0), **columns)
