"""One table for the terminal, Markdown, LaTeX and pages; the other files of this folder say what it holds."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from rich.table import Table
from rich.text import Text

from trainers.report.tables.text import MISSING


@dataclass(frozen=True)
class TextTable:
    """A table of text.

    Attributes:
        columns: the headings.
        rows: a cell a column each.
        caption: what the numbers are and rest on, without a full stop.
        left: how many of the first columns hold words, which stand on the left.
        bold: (row, column) of the cells that stand out.
        sections: rows below which there is a line.
        wraps: whether the columns of numbers may be broken where the terminal is narrow.
        padding: blanks beside each cell in the terminal.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str
    left: int = 1
    bold: Collection[tuple[int, int]] = field(default_factory=frozenset)
    sections: Collection[int] = ()
    wraps: bool = True
    padding: int = 1

    def terminal(self) -> Table:
        """For rich to print."""
        table = Table(caption=self.caption, caption_justify="left", padding=(0, self.padding))
        for j, column in enumerate(self.columns):
            words = j < self.left
            table.add_column(column, justify="left" if words else "right", no_wrap=words or not self.wraps)
        for i, row in enumerate(self.rows):
            cells = (Text(cell, style="bold" if (i, j) in self.bold else "") for j, cell in enumerate(row))
            table.add_row(*cells, end_section=i in self.sections)
        return table

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


def _latex(cell: str) -> str:
    """A cell with what LaTeX would take for its own escaped."""
    return re.sub(r"([&%$#_{}])", r"\\\1", cell.replace(MISSING, "--")).replace("±", r"$\pm$")


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
