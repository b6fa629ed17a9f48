"""The same question asked in two ways has the same answer: every row of the table."""

import pytest

from tests.equivalence.rows import Row
from tests.equivalence.table import ROWS


@pytest.mark.parametrize("row", [pytest.param(row, marks=row.way.marks, id=str(row)) for row in ROWS])
def test_both_ways_give_the_same_answer(row: Row) -> None:
    row.check()


def test_no_row_is_there_twice() -> None:
    assert len({str(row) for row in ROWS}) == len(ROWS)
