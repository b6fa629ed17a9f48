"""Writes how many rows the table of equivalences has into docs/reliability.md.

    PYTHONPATH=. python benchmarks/equivalences_page.py

The rows themselves are asked by `pytest tests/equivalence`.
"""

from collections.abc import Sequence
from types import ModuleType

from pages import ROOT, fill, table

from tests.equivalence.rows import Row
from tests.equivalence.table import ROWS, THEMES


def markdown() -> str:
    """Counts by theme."""
    lines = [(about(module), *counts(module.table())) for module in THEMES]
    lines.append(("all", *counts(ROWS)))
    return table(("theme", "questions", "asked in two ways", "of these to the last bit"), lines)


def about(module: ModuleType) -> str:
    """What a theme is about: the first line of its module."""
    first: str = (module.__doc__ or "").splitlines()[0]
    return first.rstrip(".")


def counts(rows: Sequence[Row]) -> tuple[str, str, str]:
    """Questions, rows, and those that allow no difference."""
    questions = {(row.theme, row.question) for row in rows}
    return str(len(questions)), str(len(rows)), str(sum(row.way.exact for row in rows))


if __name__ == "__main__":
    fill(ROOT / "docs" / "reliability.md", "equivalences", markdown())
