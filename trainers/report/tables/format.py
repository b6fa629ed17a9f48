"""One table for the terminal, Markdown, LaTeX and pages; the other files of this folder say what it holds."""

import re
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainers.report.tables.text import MISSING


@dataclass(frozen=True)
class TextTable:
    """A table of text."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str  # what the numbers are and rest on, without a full stop
    left: int = 1  # how many of the first columns hold words, which stand on the left
    bold: Collection[tuple[int, int]] = ()  # (row, column) of the cells that stand out
    sections: Collection[int] = ()  # rows below which there is a line
    wraps: bool = True  # whether the columns of numbers may be broken where the terminal is narrow
    folds: bool = False  # whether those of words may be
    padding: int = 1  # blanks beside each cell in the terminal

    def terminal(self) -> Table:
        """For rich to print."""
        table = Table(caption=self.caption, caption_justify="left", padding=(0, self.padding))
        for j, column in enumerate(self.columns):
            side, broken = "left" if j < self.left else "right", self._is_broken(j)
            table.add_column(column, justify=side, no_wrap=not broken, overflow="fold" if broken else "ellipsis")  # type: ignore[arg-type]
        for i, row in enumerate(self.rows):
            cells = (Text(cell, style="bold" if (i, j) in self.bold else "") for j, cell in enumerate(row))
            table.add_row(*cells, end_section=i in self.sections)
        return table

    def _is_broken(self, j: int) -> bool:
        return self.folds if j < self.left else self.wraps

    @property
    def narrowest(self) -> int:
        """The width of a terminal below which something would not be seen."""
        width = 1
        for j, cells in enumerate(zip(self.columns, *self.rows, strict=True)):
            pieces = [piece for cell in cells for piece in (cell.split() if self._is_broken(j) else [cell])]
            width += max(map(len, pieces), default=0) + 2 * self.padding + 1
        return width

    def markdown(self) -> str:
        """With the caption below."""
        lines = [_line(self.columns), f"|{' --- |' * self.left}{' ---: |' * (len(self.columns) - self.left)}"]
        for i, row in enumerate(self.rows):
            lines.append(_line(f"**{cell}**" if (i, j) in self.bold else cell for j, cell in enumerate(row)))
        return "\n".join([*lines, "", self.caption, ""])

    def latex(self) -> str:
        """For the package booktabs, with the caption as a comment above."""
        head, *rows = (f"{' & '.join(map(_latex, row))} \\\\" for row in (self.columns, *self.rows))
        begin = rf"\begin{{tabular}}{{{'l' * self.left}{'r' * (len(self.columns) - self.left)}}}"
        end = (r"\bottomrule", r"\end{tabular}", "")
        return "\n".join([f"% {self.caption}", begin, r"\toprule", head, r"\midrule", *rows, *end])


def wide_console() -> Console:
    """The terminal; a file or a pipe has room for every column."""
    return Console(width=None if sys.stdout.isatty() else 220)


def _latex(cell: str) -> str:
    """A cell with what LaTeX would take for its own escaped."""
    return re.sub(r"([&%$#_{}])", r"\\\1", cell.replace(MISSING, "--")).replace("±", r"$\pm$")


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
