"""Which images a report needs."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from trainers.report.components import sheet_rows
from trainers.report.evaluation import Components
from trainers.report.gallery import gallery_rows


def shown_rows(table: Mapping[str, NDArray[Any]], components: Mapping[str, Components] | None = None) -> set[int]:
    """The rows of the table whose images the page shows: galleries, explanations and sheets of components."""
    rows = {row for ends in gallery_rows(table).values() for chosen in ends.values() for row in chosen}
    for each in (components or {}).values():
        rows |= {row for kinds in sheet_rows(table, each).values() for chosen in kinds.values() for row in chosen}
    return rows
