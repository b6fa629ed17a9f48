"""Summary of the jobs of a sweep."""

import csv
import io
import json
import operator
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from gmm_torch.files import write_text
from trainers.report.tables.benchmark import GROUPS
from trainers.report.tables.format import TextTable
from trainers.report.tables.results import n_test_images
from trainers.report.tables.text import BASELINE, MISSING, percent, source_label, too_few, winner

ACCURACY = "test accuracy"
FALSE_ALARMS = "false alarms at 0.05"
NOT_OF_A_SOURCE = (ACCURACY, FALSE_ALARMS)  # columns
TOO_FEW = ", too few"
SOFTMAX, REFUSED = ", softmax", ", refused"  # ends of the columns that stand beside a source's AUROC
METRICS = "metrics.json"
OVERRIDES = Path(".hydra") / "overrides.yaml"


@dataclass(frozen=True)
class Job:
    """One finished job, or what several jobs that differ by their seed alone have in common."""

    name: str
    overrides: Mapping[str, str]  # without the seed
    seed: str
    numbers: Mapping[str, float | None]  # column -> share in [0, 1]
    network: str = ""  # digits that stand for the classifier's weights; empty where the run does not say
    sizes: Mapping[str, int] = field(default_factory=dict)  # column of a source -> failures, where the run says it
    few: frozenset[str] = frozenset()  # columns of sources with too few failures for a conclusion


class Spread(NamedTuple):
    """Mean and standard deviation over seeds, None where a number is missing; with one seed there is no deviation."""

    mean: float | None
    std: float | None

    def text(self) -> str:
        """In per cent."""
        return percent(self.mean) + ("" if self.std is None else f" ± {percent(self.std)}")


class Setting(NamedTuple):
    """What jobs that differ by their seed alone have in common."""

    name: str
    seeds: list[str]
    overrides: Mapping[str, str]
    numbers: Mapping[str, Spread]
    one_network: bool
    sizes: Mapping[str, str]
    few: frozenset[str]

    def number(self, column: str) -> Spread:
        """Of a column that its jobs may lack."""
        return self.numbers.get(column, Spread(None, None))

    def text(self, column: str) -> str:
        """A number in per cent."""
        return self.number(column).text()

    @property
    def seeds_in_words(self) -> str:
        """How many there are, and whether they changed what was trained."""
        n = len(set(self.seeds))
        runs = f"{len(self.seeds)} runs of " * (len(self.seeds) > n)
        return f"{runs}{n} seed{'s' * (n > 1)}" + ", one network" * self.one_network


@dataclass(frozen=True)
class Summary:
    """The jobs of a sweep with the mean and standard deviation over their seeds."""

    jobs: list[Job]  # one per metrics.json, in the order of their folders
    unfinished: list[str]  # folders of jobs without a metrics.json
    facts: list[str]  # what all jobs have in common: images, device, versions
    alphas: list[float]  # at which they refuse

    @property
    def header(self) -> list[str]:
        """The columns: job, overrides, seed, numbers."""
        return ["job", *self._overrides, "seed", *map(self.heading, self.columns)]

    def heading(self, column: str) -> str:
        """A column's name, of a source with the number of its failures and whether these are too few."""
        n = _sizes(self.jobs).get(column)
        return column if n is None else f"{column}, n = {n}{TOO_FEW * (column in _few(self.jobs))}"

    @property
    def _overrides(self) -> list[str]:
        """Those that tell jobs apart; all of them where there is one job."""
        keys = dict.fromkeys(key for job in self.jobs for key in job.overrides)
        return [key for key in keys if len(self.jobs) == 1 or len({job.overrides.get(key) for job in self.jobs}) > 1]

    @property
    def columns(self) -> list[str]:
        """The columns of numbers, but for those that stand beside a source's AUROC."""
        return [key for key in self._all_columns if not key.endswith((SOFTMAX, REFUSED))]

    @property
    def _all_columns(self) -> list[str]:
        found = dict.fromkeys(key for job in self.jobs for key in job.numbers)
        return sorted(found, key=lambda key: (key.endswith(REFUSED), key.endswith(SOFTMAX)))

    @property
    def mismatch(self) -> list[str]:
        """In which ways the jobs are not those of one sweep, in sentences without their stops; none where they are."""
        n, found = len(self.jobs), []
        missing = {key: n - sum(key in job.numbers for job in self.jobs) for key in self.columns}
        if lacking := [f"{key} (not in {count} of {n})" for key, count in missing.items() if count]:
            found.append(f"the jobs do not have the same columns: {', '.join(lacking)}")
        keys = {frozenset(job.overrides) for job in self.jobs}
        if len(keys) > 1:
            some = sorted(frozenset.union(*keys) - frozenset.intersection(*keys))
            found.append(f"the jobs do not set the same options: {', '.join(some)} in some of them only")
        if len(self.alphas) > 1:
            alphas = ", ".join(f"{alpha:g}" for alpha in self.alphas)
            found.append(f"the jobs do not refuse at the same alpha: {alphas}")
        if again := [setting.name for setting in self.settings if len(set(setting.seeds)) < len(setting.seeds)]:
            found.append(
                f"jobs of one setting have the same seed, and means count each of them: {', '.join(again[:3])}"
            )
        return found

    @property
    def settings(self) -> list[Setting]:
        """Jobs that differ by their seed alone, taken together, in the order of the first of each."""
        groups: dict[tuple[tuple[str, str], ...], list[Job]] = {}
        for job in self.jobs:
            groups.setdefault(tuple(sorted(job.overrides.items())), []).append(job)
        return [
            Setting(
                " ".join(word for key in self._overrides if (word := group[0].overrides.get(key))) or group[0].name,
                [job.seed for job in group],
                group[0].overrides,
                {
                    key: _spread([job.numbers.get(key) for job in group])
                    for key in self._all_columns
                    if any(key in job.numbers for job in group)
                },
                len(group) > 1 and len({job.network for job in group}) == 1 and bool(group[0].network),
                _sizes(group),
                _few(group),
            )
            for group in groups.values()
        ]

    @property
    def statistics(self) -> list[Job]:
        """Mean and standard deviation (n - 1 in the denominator) of each setting with several seeds, as rows."""
        return [
            Job(name, each.overrides, each.seeds_in_words, {key: spread[i] for key, spread in each.numbers.items()})
            for each in self.settings
            if len(set(each.seeds)) > 1
            for i, name in enumerate(("mean", "std"))
        ]

    def csv(self) -> str:
        """All rows, numbers as shares in full precision, empty where there is none."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["job", *self._overrides, "seed", *self._all_columns])
        for job in [*self.jobs, *self.statistics]:  # None is written as an empty cell
            writer.writerow([*self._words(job), *(job.numbers.get(key) for key in self._all_columns)])
        return stream.getvalue()

    def table(self) -> TextTable:
        """All rows, numbers in per cent."""
        rows = [*self.jobs, *self.statistics]
        cells = [
            [*(word or MISSING for word in self._words(job)), *(percent(job.numbers.get(key)) for key in self.columns)]
            for job in rows
        ]
        n, left = len(self.jobs), len(self._overrides) + 2
        bold = {(i, 0) for i in range(n, len(rows), 2)}  # the means
        return TextTable(self.header, cells, self.caption, left=left, bold=bold, sections=(n - 1,))

    def sources_table(self) -> TextTable:
        """A row a setting and source, as a run's own table has them; mean and standard deviation in per cent."""
        rows: list[list[str]] = []
        bold, ends = set(), []
        for setting in self.settings:
            of_setting = [setting.seeds_in_words, *map(setting.text, NOT_OF_A_SOURCE)]
            name = setting.name
            for key in self.columns:
                if key in NOT_OF_A_SOURCE or key not in setting.numbers:
                    continue
                few = key in setting.few
                better = winner(setting.number(key).mean, setting.number(key + SOFTMAX).mean)
                if better and not few:
                    bold.add((len(rows), 3 if better > 0 else 4))
                n = setting.sizes.get(key, MISSING) + TOO_FEW * few
                rows.append([name, key, n, *map(setting.text, (key, key + SOFTMAX, key + REFUSED)), *of_setting])
                name, of_setting = "", ["" for _ in of_setting]
            ends.append(len(rows) - 1)
        alpha = f" at {self.alphas[0]:g}" if len(self.alphas) == 1 else ""
        columns = ["setting", "source", "n", "AUROC", "softmax AUROC", f"refused{alpha}", "seeds", *NOT_OF_A_SOURCE]
        return TextTable(columns, rows, self.caption, left=2, bold=bold, sections=ends[:-1], folds=True)

    def settings_table(self) -> TextTable:
        """A row a setting, mean and standard deviation over its seeds in per cent, the highest mean in bold.

        Nothing is in bold in a column where a setting has too few failures.
        """
        settings = self.settings
        rows = [[each.name, str(len(set(each.seeds))), *map(each.text, self.columns)] for each in settings]
        bold = set()
        for j, key in enumerate(self.columns, 2):
            means = [setting.number(key).mean for setting in settings]
            is_ranked = key != FALSE_ALARMS and key not in _few(self.jobs)
            best = max((mean for mean in means if mean is not None), default=None) if is_ranked else None
            bold |= {(i, j) for i, mean in enumerate(means) if mean is not None and mean == best and len(means) > 1}
        return TextTable(["setting", "seeds", *map(self.heading, self.columns)], rows, self.caption, bold=bold)

    @property
    def caption(self) -> str:
        """What the numbers are, and which jobs left none."""
        first = ", ".join(key for key in NOT_OF_A_SOURCE if key in self.columns)
        words = [f"{len(self.jobs)} jobs", f"{first} and AUROC per source, in %"]
        if _few(self.jobs):
            words.append("too few: failures for a conclusion")
        several = [setting for setting in self.settings if len(setting.seeds) > 1]
        if several:
            words.append("± and std: over seeds")
        if any(setting.one_network for setting in several):
            words.append("of seeds with one network: of mixtures and attacks alone")
        words += self.facts
        if self.unfinished:
            words.append(f"without a {METRICS}: {', '.join(self.unfinished)}")
        return "; ".join(words)

    def _words(self, job: Job) -> list[str]:
        return [job.name, *(job.overrides.get(key, "") for key in self._overrides), job.seed]


def summarize(folder: Path | str) -> Summary:
    """Gather every metrics.json below the folder of a sweep, or of single runs; write summary.csv, .md and .tex there.

    FileNotFoundError where there is none, ValueError where one is not what a run writes.
    """
    folder = Path(folder)
    found = sorted(path.parent for path in folder.rglob(METRICS))
    if not found:
        raise FileNotFoundError(
            f"input: expected the folder of a sweep, such as runs/multirun/<date>/<time>, with at least one job that "
            f"has finished its evaluation; got {folder}, with no {METRICS} below: give another, or wait for a job"
        )
    started = {path.parent.parent for path in folder.rglob(str(OVERRIDES))}
    unfinished = sorted(str(path.relative_to(folder)) for path in started - set(found))
    jobs, metrics = zip(*(_job(path, folder) for path in found), strict=True)
    alphas = sorted({float(each["alpha"]) for each in metrics if "alpha" in each})
    summary = Summary(sorted(jobs, key=lambda job: _natural(job.name)), unfinished, _facts(metrics), alphas)
    write_text(folder / "summary.csv", summary.csv())
    write_text(folder / "summary.md", f"{summary.table().markdown()}\n{summary.sources_table().markdown()}")
    write_text(folder / "summary.tex", summary.settings_table().latex())
    return summary


def _job(path: Path, folder: Path) -> tuple[Job, dict[str, Any]]:
    """What a job says, checked: in short, and whole."""
    try:
        metrics = json.loads((path / METRICS).read_text(encoding="utf-8"))
        numbers = {ACCURACY: metrics["classifier"]["test_accuracy"]}
        sizes, few = {}, set()
        if (rates := metrics.get("calibration", {}).get("false_alarm_rate")) is not None:
            numbers[FALSE_ALARMS] = rates.get("0.05")
        for name, source in metrics["sources"].items():
            label = source_label(name)
            numbers[label] = source["auroc"]
            if "n" in source:
                sizes[label] = operator.index(source["n"])
            if too_few(source):
                few.add(label)
            if BASELINE in source.get("baselines", {}):
                numbers[label + SOFTMAX] = source["baselines"][BASELINE]["auroc"]
            if "refused" in source:
                numbers[label + REFUSED] = source["refused"]
        for group in GROUPS if "benchmark" in metrics else ():
            average = metrics["benchmark"][group]
            numbers |= {f"{group}-OOD": average["auroc"], f"{group}-OOD{SOFTMAX}": average[BASELINE]}
        for value in numbers.values():
            _check_share(value)
        seed = str(metrics["seed"])
        network = "".join(map(str, metrics["classifier"].get("fingerprint", {}).values()))
        float(metrics.get("alpha", 0))
        _facts([metrics])
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path / METRICS}: expected what a run writes; got another file ({type(error).__name__}: {error}): repeat "
            "that job or move its folder away"
        ) from error
    overrides = {key: value for key, value in _overrides(path / OVERRIDES).items() if key != "seed"}
    return Job(str(path.relative_to(folder)), overrides, seed, numbers, network, sizes, frozenset(few)), metrics


def _facts(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the numbers rest on, where the jobs say it."""
    said = [
        ("test images", [n_test_images(each) or None for each in metrics]),
        ("calibration images", [each.get("calibration", {}).get("n") for each in metrics]),
    ]
    facts = [f"{_span(values)} {what}" for what, values in said if any(values)]
    named = [each.get("device") for each in metrics]
    named += [
        f"{name} {each['versions'][name]}" for name in ("gmm_torch", "torch") for each in metrics if "versions" in each
    ]
    return [*facts, *dict.fromkeys(word for word in named if word)]


def _sizes(jobs: Sequence[Job]) -> dict[str, str]:
    """Column of a source -> how many failures it has in these jobs, where they say it."""
    columns = dict.fromkeys(key for job in jobs for key in job.sizes)
    return {key: _span([job.sizes.get(key) for job in jobs]) for key in columns}


def _few(jobs: Sequence[Job]) -> frozenset[str]:
    """Columns of sources of which one of these jobs has too few failures for a conclusion."""
    return frozenset[str]().union(*(job.few for job in jobs))


def _span(values: Sequence[int | None]) -> str:
    known = sorted({value for value in values if value is not None})
    return str(known[0]) if len(known) == 1 else f"{known[0]} to {known[-1]}"


def _check_share(value: Any) -> None:
    if value is not None and not 0 <= value <= 1:
        raise ValueError(f"expected a number from 0 to 1; got {value}")


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
        raise ValueError(f"{path}: expected what Hydra writes; got another file ({error}): move it away") from error
    pairs = (line.partition("=") for line in lines)
    return {key.lstrip("+~"): value for key, _, value in pairs}


def _spread(values: Sequence[float | None]) -> Spread:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return Spread(None, None)
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts "10" after "9", as Hydra numbers its jobs."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in Path(name).parts]
