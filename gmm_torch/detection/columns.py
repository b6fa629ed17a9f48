"""Rows of text in columns, for what is printed of a batch."""

from collections.abc import Sequence

N_SHOWN = 5  # inputs of a batch that `print` shows


def in_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line a row, each column as wide as its widest cell, cells on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def counted(n: int, n_accepted: int) -> str:
    """A batch and what became of it."""
    return f"{n:,} input{'s' * (n > 1)}: {n_accepted:,} accepted, {n - n_accepted:,} refused"


def and_more(n: int) -> list[str]:
    """The line below the first inputs of a batch of n, where there are more."""
    return [f"and {n - N_SHOWN:,} more"] if n > N_SHOWN else []
