"""A figure of a page."""

from typing import NamedTuple

from markupsafe import Markup
from matplotlib.figure import Figure

from trainers.report.svg import inline_svg


class Panel(NamedTuple):
    """A figure with its heading and a line below."""

    heading: str
    note: str
    svg: Markup


def panel(key: str, heading: str, note: str, figure: Figure) -> Panel:
    """A figure with its heading and a line below; `key` is unique in the page."""
    return Panel(heading, note, inline_svg(figure, key, f"{heading}. {note}".strip()))
