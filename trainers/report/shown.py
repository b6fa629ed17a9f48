"""Which images a report needs."""

from collections.abc import Mapping

from trainers.evaluation.components import Components
from trainers.evaluation.record import Records
from trainers.report.components import sheet_rows
from trainers.report.gallery import gallery_rows


def shown_rows(records: Records, components: Mapping[str, Components] | None = None) -> set[int]:
    """The records whose images the page shows: galleries, explanations and sheets of components."""
    rows = {row for ends in gallery_rows(records).values() for chosen in ends.values() for row in chosen}
    for each in (components or {}).values():
        rows |= {row for kinds in sheet_rows(records, each).values() for chosen in kinds.values() for row in chosen}
    return rows
