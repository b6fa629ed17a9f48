"""Matplotlib figures as inline SVG that follows the page: its font, its colours, light or dark."""

import io
import re
from typing import NamedTuple

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from trainers.report.figures.style import CSS_NAMES, RC


def inline_svg(figure: Figure, key: str, description: str) -> Markup:
    """The figure as an <svg> element for an HTML page.

    Colours of the palette become CSS variables, text stays text, the size is left to the page, and nothing
    refers outside the page.

    Args:
        figure: drawn with the palette of `figures/style.py`.
        key: unique in the page, letters and digits; keeps the ids of two figures apart.
        description: what a reader who can't see it is told.
    """
    stream = io.StringIO()
    with rc_context(RC):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{key}-", svg)
    for colour, name in CSS_NAMES.items():
        svg = re.sub(rf"{colour}\b", f"var(--{name})", svg, flags=re.IGNORECASE)
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None  # Matplotlib's SVG writer always gives one
    head = Markup('<svg {} role="img" aria-label="{}">').format(Markup(box[0]), description)
    return head + Markup(svg[svg.index(">") + 1 :])


class Panel(NamedTuple):
    """A figure with its heading and a line below; `key` is unique in the page."""

    key: str
    heading: str
    note: str
    svg: Markup
    figure: Figure


def panel(key: str, heading: str, note: str, figure: Figure) -> Panel:
    """A figure, drawn for a page."""
    return Panel(key, heading, note, inline_svg(figure, key, f"{heading}. {note}".strip()), figure)
