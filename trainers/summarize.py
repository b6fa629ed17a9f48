"""One table out of the jobs of a sweep."""

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table
from rich.text import Text

from gmm_torch.files import atomic_path
from trainers.tables import MISSING, percent, source_label

METRICS = "metrics.json"
OVERRIDES = Path(".hydra") / "overrides.yaml"


@dataclass(frozen=True)
class Job:
    """One finished job, or what several jobs that differ by their seed alone have in common."""

    name: str
    overrides: Mapping[str, str]  # without the seed
    seed: str
    numbers: Mapping[str, float | None]  # column -> share in [0, 1]


@dataclass(frozen=True)
class Summary:
    """The jobs of a sweep with the mean and standard deviation over their seeds.

    Args:
        jobs: one per metrics.json, in the order of their folders.
        statistics: "mean" and "std" (n - 1 in the denominator) of jobs that differ by their seed alone.
        unfinished: folders of jobs without a metrics.json.
    """

    jobs: list[Job]
    statistics: list[Job] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)

    @property
    def header(self) -> list[str]:
        """The columns: job, overrides, seed, numbers."""
        return ["job", *self._overrides, "seed", *self._numbers]

    @property
    def _overrides(self) -> list[str]:
        return list(dict.fromkeys(key for job in self.jobs for key in job.overrides))

    @property
    def _numbers(self) -> list[str]:
        return list(dict.fromkeys(key for job in self.jobs for key in job.numbers))

    def csv(self) -> str:
        """All rows, numbers as shares in full precision, empty where there is none."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(self.header)
        for job in [*self.jobs, *self.statistics]:
            numbers = [job.numbers.get(key) for key in self._numbers]
            writer.writerow([*self._words(job), *("" if value is None else value for value in numbers)])
        return stream.getvalue()

    def markdown(self) -> str:
        """All rows, numbers in per cent."""
        rows = [self.header, *(self._cells(job) for job in [*self.jobs, *self.statistics])]
        lines = [f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in rows]
        lines.insert(1, f"|{' --- |' * len(self.header)}")
        return "\n".join([*lines, "", self.caption, ""])

    def table(self) -> Table:
        """The same for the terminal."""
        table = Table(caption=self.caption, caption_justify="left")
        for column in self.header:
            table.add_column(column, justify="right" if column in self._numbers else "left")
        for job in self.jobs:
            table.add_row(*(Text(cell) for cell in self._cells(job)))
        table.add_section()
        for job in self.statistics:
            table.add_row(*(Text(cell) for cell in self._cells(job)), style="bold" if job.name == "mean" else "")
        return table

    @property
    def caption(self) -> str:
        """What the numbers are, and which jobs left none."""
        words = f"{len(self.jobs)} jobs; test accuracy and AUROC per source, in %"
        if self.unfinished:
            words += f"; without a {METRICS}: {', '.join(self.unfinished)}"
        return words

    def _words(self, job: Job) -> list[str]:
        return [job.name, *(job.overrides.get(key, "") for key in self._overrides), job.seed]

    def _cells(self, job: Job) -> list[str]:
        words = [word or MISSING for word in self._words(job)]
        return [*words, *(percent(job.numbers.get(key)) for key in self._numbers)]


def summarize(folder: Path | str) -> Summary:
    """Gather every metrics.json below a sweep's folder; write summary.csv and summary.md into it.

    Args:
        folder: of a sweep (multirun/<date>/<time>) or of single runs.

    Returns:
        the table; print its `table()` with rich.

    Raises:
        FileNotFoundError: if there is no metrics.json below the folder.
        ValueError: if one is not what a run writes.
    """
    folder = Path(folder)
    found = sorted(path.parent for path in folder.rglob(METRICS))
    if not found:
        raise FileNotFoundError(
            f"no {METRICS} below {folder}: expected the folder of a sweep, such as multirun/<date>/<time>, "
            "with at least one job that has finished its evaluation."
        )
    started = {path.parent.parent for path in folder.rglob(str(OVERRIDES))}
    unfinished = sorted(str(path.relative_to(folder)) for path in started - set(found))
    jobs = sorted((_job(path, folder) for path in found), key=lambda job: _natural(job.name))
    summary = Summary(jobs, _statistics(jobs), unfinished)
    for name, text in (("summary.csv", summary.csv()), ("summary.md", summary.markdown())):
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return summary


def _job(path: Path, folder: Path) -> Job:
    try:
        metrics = json.loads((path / METRICS).read_text(encoding="utf-8"))
        numbers = {"test accuracy": _share(metrics["classifier"]["test_accuracy"])}
        numbers |= {source_label(name): _share(source["auroc"]) for name, source in metrics["sources"].items()}
        seed = str(metrics["seed"])
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path / METRICS} is not what a run writes ({type(error).__name__}: {error}). Repeat that job "
            "or move its folder away."
        ) from error
    overrides = _overrides(path / OVERRIDES)
    overrides.pop("seed", None)
    return Job(str(path.relative_to(folder)), overrides, seed, numbers)


def _share(value: Any) -> float | None:
    if value is None or 0 <= value <= 1:
        return value
    raise ValueError(f"expected a number from 0 to 1, got {value}")


def _overrides(path: Path) -> dict[str, str]:
    """Hydra's list of "key=value", in its order; none for a run that was not started by Hydra."""
    if not path.exists():
        return {}
    try:
        # OmegaConf would copy what a few YAML aliases repeat a billion times.
        lines = yaml.safe_load(path.read_text(encoding="utf-8")) or []
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise ValueError("expected a list of key=value")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not what Hydra writes ({error}). Move it away.") from error
    pairs = (line.partition("=") for line in lines)
    return {key.lstrip("+~"): value for key, _, value in pairs}


def _statistics(jobs: list[Job]) -> list[Job]:
    groups: dict[tuple[tuple[str, str], ...], list[Job]] = {}
    for job in jobs:
        groups.setdefault(tuple(sorted(job.overrides.items())), []).append(job)
    found = []
    for group in groups.values():
        if len({job.seed for job in group}) < 2:
            continue
        columns = dict.fromkeys(key for job in group for key in job.numbers)
        values = {key: [job.numbers.get(key) for job in group] for key in columns}
        seeds = f"{len(group)} seeds"
        found.append(Job("mean", group[0].overrides, seeds, {k: _mean(v) for k, v in values.items()}))
        found.append(Job("std", group[0].overrides, seeds, {k: _std(v) for k, v in values.items()}))
    return found


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _std(values: list[float | None]) -> float | None:
    mean = _mean(values)
    if mean is None:
        return None
    return math.sqrt(sum((value - mean) ** 2 for value in values if value is not None) / (len(values) - 1))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts "10" after "9", as Hydra numbers its jobs."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in Path(name).parts]
