"""Gathering the runs of a sweep."""

import sys
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from trainers.report.compare_page import write_comparison
from trainers.report.tables.jobs import summarize as gather_runs
from trainers.run.requirements import require


def summarize(cfg: DictConfig, folder: Path) -> None:
    """Gather every run below `input` into one table and one page."""
    require(cfg.input, "input", "task=summarize needs the folder of a sweep, runs/multirun/<date>/<time> for instance")
    # A file or a pipe has room for every column.
    console = Console(width=None if sys.stdout.isatty() else 220)
    summary = gather_runs(cfg.input)
    console.print(summary.table().terminal())
    page = Path(cfg.input) / "compare.html"
    write_comparison(summary, cfg.title, page)
    console.print(f"page: {page}", soft_wrap=True)
