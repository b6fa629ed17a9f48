"""Summary of verdicts on disk."""

import heapq
import os
from array import array
from collections.abc import Iterator
from typing import NamedTuple

from trainers.records.record import Record
from trainers.records.verdicts import read_verdicts

N_NAMED = 3  # files that can't be read, whose names are told in any case


class VerdictSummary(NamedTuple):
    """What verdicts on disk come to; 4 bytes an image.

    Attributes:
        n: images.
        n_refused: of these, those that can't be read among them.
        n_unreadable: of these.
        p_values: of the images that can be read.
        refused: the readable ones that are refused, the least typical first; as many as were asked for.
        unreadable: the first ones; as many as were asked for, and `N_NAMED` at least.
    """

    n: int
    n_refused: int
    n_unreadable: int
    p_values: "array[float]"
    refused: list[Record]
    unreadable: list[Record]


def summarize_verdicts(path: str | os.PathLike[str], n_shown: int = 0) -> VerdictSummary:
    """Read verdicts once, row by row.

    Args:
        path: see `read_verdicts`.
        n_shown: how many refused rows to keep, and how many unreadable ones, of which `N_NAMED` are kept at least.
    """
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
