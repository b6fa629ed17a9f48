"""Summary of the jobs of a sweep."""

import csv
import io
import json
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
from trainers.report.tables.text import BASELINE, MISSING, percent, source_label, winner

ACCURACY = "test accuracy"
FALSE_ALARMS = "false alarms at 0.05"
NOT_OF_A_SOURCE = (ACCURACY, FALSE_ALARMS)  # columns
METRICS = "metrics.json"
OVERRIDES = Path(".hydra") / "overrides.yaml"


@dataclass(frozen=True)
class Job:
    """One finished job, or what several jobs that differ by their seed alone have in common."""

    name: str
    overrides: Mapping[str, str]  # without the seed
    seed: str
    numbers: Mapping[str, float | None]  # column -> share in [0, 1]
    baselines: Mapping[str, float | None] = field(default_factory=dict)  # likewise, of the largest softmax probability
    refused: Mapping[str, float | None] = field(default_factory=dict)  # likewise, failures refused at the run's alpha
    network: str = ""  # digits that stand for the classifier's weights; empty where the run does not say


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
    baselines: Mapping[str, Spread]
    refused: Mapping[str, Spread]
    one_network: bool

    @property
    def seeds_in_words(self) -> str:
        """How many there are, and whether they changed what was trained."""
        n, n_runs = len(set(self.seeds)), len(self.seeds)
        runs = f"{n_runs} runs of " * (n_runs > n)
        return f"{runs}{n} seed{'s' * (n > 1)}" + ", one network" * self.one_network


@dataclass(frozen=True)
class Summary:
    """The jobs of a sweep with the mean and standard deviation over their seeds.

    Args:
        jobs: one per metrics.json, in the order of their folders.
        unfinished: folders of jobs without a metrics.json.
        facts: what all jobs have in common: images, device, versions.
    """

    jobs: list[Job]
    unfinished: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    alphas: list[float] = field(default_factory=list)

    @property
    def header(self) -> list[str]:
        """The columns: job, overrides, seed, numbers."""
        return ["job", *self._overrides, "seed", *self._numbers]

    @property
    def _overrides(self) -> list[str]:
        """Those that tell jobs apart; all of them where there is one job."""
        keys = dict.fromkeys(key for job in self.jobs for key in job.overrides)
        return [key for key in keys if len(self.jobs) == 1 or len({job.overrides.get(key) for job in self.jobs}) > 1]

    @property
    def _numbers(self) -> list[str]:
        return list(dict.fromkeys(key for job in self.jobs for key in job.numbers))

    @property
    def _baselines(self) -> list[str]:
        return list(dict.fromkeys(key for job in self.jobs for key in job.baselines))

    @property
    def _refused(self) -> list[str]:
        return list(dict.fromkeys(key for job in self.jobs for key in job.refused))

    @property
    def mismatch(self) -> list[str]:
        """In which ways the jobs are not those of one sweep, in sentences without their stops; none where they are."""
        n, found = len(self.jobs), []
        missing = {key: n - sum(key in job.numbers for job in self.jobs) for key in self._numbers}
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
                {key: _spread([job.numbers.get(key) for job in group]) for key in self._numbers},
                {key: _spread([job.baselines.get(key) for job in group]) for key in self._baselines},
                {key: _spread([job.refused.get(key) for job in group]) for key in self._refused},
                len(group) > 1 and len({job.network for job in group}) == 1 and bool(group[0].network),
            )
            for group in groups.values()
        ]

    @property
    def statistics(self) -> list[Job]:
        """Mean and standard deviation (n - 1 in the denominator) of each setting with several seeds, as rows."""
        return [
            Job(
                name,
                setting.overrides,
                setting.seeds_in_words,
                {key: spread[i] for key, spread in setting.numbers.items()},
                {key: spread[i] for key, spread in setting.baselines.items()},
                {key: spread[i] for key, spread in setting.refused.items()},
            )
            for setting in self.settings
            if len(set(setting.seeds)) > 1
            for i, name in enumerate(("mean", "std"))
        ]

    def csv(self) -> str:
        """All rows, numbers as shares in full precision, empty where there is none."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        more = [f"{key}, softmax" for key in self._baselines] + [f"{key}, refused" for key in self._refused]
        writer.writerow([*self.header, *more])
        for job in [*self.jobs, *self.statistics]:
            numbers = [job.numbers.get(key) for key in self._numbers]
            numbers += [job.baselines.get(key) for key in self._baselines]
            numbers += [job.refused.get(key) for key in self._refused]
            writer.writerow([*self._words(job), *("" if value is None else value for value in numbers)])
        return stream.getvalue()

    def table(self) -> TextTable:
        """All rows, numbers in per cent."""
        rows = [*self.jobs, *self.statistics]
        cells = [
            [*(word or MISSING for word in self._words(job)), *(percent(job.numbers.get(key)) for key in self._numbers)]
            for job in rows
        ]
        n, width = len(self.jobs), len(self.header)
        bold = {(i, 0) for i in range(n, len(rows), 2)}  # the means
        left = width - len(self._numbers)
        return TextTable(self.header, cells, self.caption, left=left, bold=bold, sections=(n - 1,))

    def sources_table(self) -> TextTable:
        """A row a setting and source, as a run's own table has them; mean and standard deviation in per cent."""
        rows: list[list[str]] = []
        bold, ends = set(), []
        for setting in self.settings:
            of_setting = [setting.seeds_in_words, *(_text(setting.numbers, key) for key in NOT_OF_A_SOURCE)]
            name = setting.name
            for key, ours in setting.numbers.items():
                if key in NOT_OF_A_SOURCE or not self._has(setting, key):
                    continue
                known = setting.baselines.get(key)
                if better := winner(ours.mean, known.mean if known else None):
                    bold.add((len(rows), 2 if better > 0 else 3))
                of_source = [ours.text(), _text(setting.baselines, key), _text(setting.refused, key)]
                rows.append([name, key, *of_source, *of_setting])
                name, of_setting = "", ["" for _ in of_setting]
            ends.append(len(rows) - 1)
        alpha = f" at {self.alphas[0]:g}" if len(self.alphas) == 1 else ""
        columns = ["setting", "source", "AUROC", "softmax AUROC", f"refused{alpha}", "seeds", *NOT_OF_A_SOURCE]
        return TextTable(columns, rows, self.caption, left=2, bold=bold, sections=ends[:-1], folds=True)

    def _has(self, setting: Setting, key: str) -> bool:
        """Whether a job of the setting has the source."""
        return any(key in job.numbers for job in self.jobs if job.overrides == setting.overrides)

    def settings_table(self) -> TextTable:
        """A row a setting, mean and standard deviation over its seeds in per cent, the highest mean in bold."""
        settings = self.settings
        rows = [
            [setting.name, str(len(set(setting.seeds))), *(setting.numbers[key].text() for key in self._numbers)]
            for setting in settings
        ]
        bold = set()
        for j, key in enumerate(self._numbers, 2):
            means = [setting.numbers[key].mean for setting in settings]
            best = max((mean for mean in means if mean is not None), default=None) if key != FALSE_ALARMS else None
            bold |= {(i, j) for i, mean in enumerate(means) if mean is not None and mean == best and len(means) > 1}
        return TextTable(["setting", "seeds", *self._numbers], rows, self.caption, bold=bold)

    @property
    def caption(self) -> str:
        """What the numbers are, and which jobs left none."""
        words = "; ".join([f"{len(self.jobs)} jobs", *self._in_per_cent, *self._deviation, *self.facts])
        if self.unfinished:
            words += f"; without a {METRICS}: {', '.join(self.unfinished)}"
        return words

    @property
    def _in_per_cent(self) -> list[str]:
        first = [key for key in NOT_OF_A_SOURCE if key in self._numbers]
        return [f"{', '.join(first)} and AUROC per source, in %"]

    @property
    def _deviation(self) -> list[str]:
        """What the standard deviation over seeds is of, where there is one."""
        several = [setting for setting in self.settings if len(setting.seeds) > 1]
        if not several:
            return []
        fixed = "; of seeds with one network: of mixtures and attacks alone"
        return [f"± and std: over seeds{fixed * any(setting.one_network for setting in several)}"]

    def _words(self, job: Job) -> list[str]:
        return [job.name, *(job.overrides.get(key, "") for key in self._overrides), job.seed]


def summarize(folder: Path | str) -> Summary:
    """Gather every metrics.json below a sweep's folder; write summary.csv, .md and .tex into it.

    Args:
        folder: of a sweep (runs/multirun/<date>/<time>) or of single runs.

    Returns:
        the table; print its `table().terminal()` with rich.

    Raises:
        FileNotFoundError: if there is no metrics.json below the folder.
        ValueError: if one is not what a run writes.
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
    tables = summary.table(), summary.sources_table()
    texts = {"summary.csv": summary.csv(), "summary.md": "\n".join(table.markdown() for table in tables)}
    texts["summary.tex"] = summary.settings_table().latex()
    for name, text in texts.items():
        write_text(folder / name, text)
    return summary


def _job(path: Path, folder: Path) -> tuple[Job, dict[str, Any]]:
    """What a job says, checked: in short, and whole."""
    try:
        metrics = json.loads((path / METRICS).read_text(encoding="utf-8"))
        numbers = {ACCURACY: _share(metrics["classifier"]["test_accuracy"])}
        if (rates := metrics.get("calibration", {}).get("false_alarm_rate")) is not None:
            numbers[FALSE_ALARMS] = _share(rates.get("0.05"))
        baselines, refused = {}, {}
        for name, source in metrics["sources"].items():
            numbers[source_label(name)] = _share(source["auroc"])
            if BASELINE in source.get("baselines", {}):
                baselines[source_label(name)] = _share(source["baselines"][BASELINE]["auroc"])
            if "refused" in source:
                refused[source_label(name)] = _share(source["refused"])
        for group in GROUPS if "benchmark" in metrics else ():
            average = metrics["benchmark"][group]
            numbers[f"{group}-OOD"], baselines[f"{group}-OOD"] = _share(average["auroc"]), _share(average[BASELINE])
        seed = str(metrics["seed"])
        network = "".join(map(str, metrics["classifier"].get("fingerprint", {}).values()))
        float(metrics.get("alpha", 0))
        _facts([metrics])
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path / METRICS}: expected what a run writes; got another file ({type(error).__name__}: {error}): repeat "
            "that job or move its folder away"
        ) from error
    overrides = {key: value for key, value in _overrides(path / OVERRIDES).items() if key != "seed"}
    return Job(str(path.relative_to(folder)), overrides, seed, numbers, baselines, refused, network), metrics


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


def _span(values: Sequence[int | None]) -> str:
    known = sorted({value for value in values if value is not None})
    return str(known[0]) if len(known) == 1 else f"{known[0]} to {known[-1]}"


def _text(spreads: Mapping[str, Spread], key: str) -> str:
    return spreads[key].text() if key in spreads else MISSING


def _share(value: Any) -> float | None:
    if value is None or 0 <= value <= 1:
        return value
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
