"""Gathering the runs of a sweep."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from trainers.report.compare_page import write_comparison
from trainers.report.tables.format import wide_console
from trainers.report.tables.jobs import summarize as gather_runs
from trainers.run.requirements import require

log = logging.getLogger(__name__)


def summarize(cfg: DictConfig, folder: Path) -> None:
    """Gather every run below `input` into one table and one page."""
    require(cfg.input, "input", "task=summarize needs the folder of a sweep, runs/multirun/<date>/<time> for instance")
    console = wide_console()
    summary = gather_runs(cfg.input)
    jobs, sources = summary.table(), summary.sources_table()
    if jobs.narrowest <= console.width:
        console.print(jobs.terminal())
    else:
        where = Path(cfg.input) / "summary.md"
        console.print(f"a row a job: {where}, since it is wider than this terminal", soft_wrap=True)
    console.print(sources.terminal())
    for sentence in summary.mismatch:
        log.warning("%s: one sweep at a time compares like with like", sentence)
    page = Path(cfg.input) / "compare.html"
    write_comparison(summary, cfg.title, page)
    console.print(f"page: {page}", soft_wrap=True)
