"""Rendering of a page from its template."""

from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from gmm_torch.files import write_text
from trainers.report.tables.text import of_softmax, p_value_text, percent, source_label, winner

HERE = Path(__file__).parent


def write_page(template: str, path: Path | str, **content: Any) -> None:
    """Write a page that needs nothing beside it, of a template beside this file and all that it asks for."""
    css = Markup((HERE / "report.css").read_text(encoding="utf-8"))
    page = _environment().get_template(template).render(css=css, **content)
    write_text(path, page, errors="backslashreplace")  # the name of a file need not be text


@cache
def _environment() -> jinja2.Environment:
    """Compiles each template once."""
    files, strict = jinja2.FileSystemLoader(HERE), jinja2.StrictUndefined
    environment = jinja2.Environment(
        loader=files, autoescape=True, undefined=strict, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {each.__name__: each for each in (percent, p_value_text, source_label)}
    environment.globals |= {"winner": winner, "of_softmax": of_softmax}
    return environment
