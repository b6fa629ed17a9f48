"""Gathering the runs of a sweep."""

import sys
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from trainers.summarize import summarize as gather_runs
from trainers.tasks.need import need


def summarize(cfg: DictConfig, folder: Path) -> None:
    """Gather every run below `input` into one table."""
    need(cfg.input, "input", "task=summarize needs the folder of a sweep, multirun/ for instance")
    # A file or a pipe has room for every column.
    Console(width=None if sys.stdout.isatty() else 220).print(gather_runs(cfg.input).table())
