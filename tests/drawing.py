"""Reports without what takes most of their time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from matplotlib.figure import Figure


@contextmanager
def figures_left_empty() -> Iterator[None]:
    """Within, a page's figures are made, and not drawn."""
    draw = Figure.savefig

    def savefig(figure: Figure, to: Any, **options: Any) -> None:
        if options.get("format") == "svg":
            to.write('<svg viewBox="0 0 1 1"></svg>')
        else:
            draw(figure, to, **options)

    with patch.object(Figure, "savefig", savefig):
        yield


@contextmanager
def figures_left_as_placed() -> Iterator[None]:
    """Within, figures are drawn with their axes where they were placed: to arrange them takes most of the time."""
    draw = Figure.savefig

    def savefig(figure: Figure, to: Any, **options: Any) -> None:
        figure.set_layout_engine(None)
        draw(figure, to, **options)

    with patch.object(Figure, "savefig", savefig):
        yield
