"""Tables in Markdown, the places in documents that benchmarks fill, and their results as files."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from timings import check_no_time_below_zero

from gmm_torch.files import write_text

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def filled(page: str, name: str, text: str) -> str:
    """The page with text between its lines `<!-- name -->` and `<!-- end of name -->`.

    Raises:
        ValueError: the page has no such lines.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"expected the lines {begin!r} and {end!r}, to write the table between")
    return pattern.sub(lambda _: f"{begin}\n\n{text}\n\n{end}", page)


def fill(path: Path, name: str, text: str) -> None:
    """`filled`, for a file, which is replaced whole."""
    write_text(path, filled(path.read_text(encoding="utf-8"), name, text))


def versions_text(versions: Mapping[str, str]) -> str:
    """Packages with their versions, as they stand below a table."""
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def save(path: Path, result: Any, indent: int | None = 1) -> None:
    """A result as JSON; the file is replaced whole.

    Raises:
        NoisyTimingError: a time below zero.
    """
    check_no_time_below_zero(result)
    write_text(path, json.dumps(result, indent=indent) + "\n")
