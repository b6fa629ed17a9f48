"""The page that compares the runs of a sweep: one self-contained HTML file."""

from pathlib import Path

from markupsafe import Markup

from trainers.report.figures.settings import settings
from trainers.report.svg import inline_svg
from trainers.report.tables.jobs import NOT_OF_A_SOURCE, SOFTMAX, Setting, Summary
from trainers.report.template import write_page

LEAD = (
    "Every number is a mean over the seeds of a setting, with the standard deviation where there are several. The "
    "AUROC tells how well the score separates failures of a kind from good inputs."
)
MOST = 40  # settings that a figure can show


def write_comparison(summary: Summary, title: str, path: Path | str) -> None:
    """Write the page of a sweep, from whose `path` links lead to the reports of the runs."""
    found = summary.settings
    write_page(
        "compare.html.j2",
        path,
        title=f"{title}: comparison",
        sentences=[LEAD],
        headline=f"{len(summary.jobs)} runs, {len(found)} settings",
        table=summary.settings_table(),
        sources=summary.sources_table(),
        mismatch=summary.mismatch,
        figures=[
            (summary.heading(key), _figure(key, i, found[:MOST]))
            for i, key in enumerate(summary.columns)
            if _is_drawn(key, found)
        ],
        left_out=max(0, len(found) - MOST),
        runs=[
            (job.name, " ".join(f"{key}={value}" for key, value in job.overrides.items()), job.seed)
            for job in summary.jobs
        ],
    )


def _is_drawn(column: str, found: list[Setting]) -> bool:
    known = (setting.number(column).mean for setting in found[:MOST])
    return column not in NOT_OF_A_SOURCE and any(mean is not None for mean in known)


def _figure(column: str, number: int, found: list[Setting]) -> Markup:
    names = [setting.name for setting in found]
    ours, softmax = ([setting.number(key) for setting in found] for key in (column, column + SOFTMAX))
    return inline_svg(settings(names, ours, softmax), f"settings{number}", f"AUROC of {column} by setting")
