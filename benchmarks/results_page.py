"""The tables of `docs/results.md`, from what `gmm-torch experiment=paper` left; `make results` does both.

    python benchmarks/results_page.py [FOLDER]     # runs/paper

Writes `benchmarks/results/paper.json`: every number of the page, and the config of every row.
"""

import json
import re
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pages
from omegaconf import OmegaConf

from gmm_torch.files import atomic_path
from trainers.report.tables.text import MISSING, p_value_text, percent, source_label

RESULT = pages.RESULTS / "paper.json"
PAGE = pages.ROOT / "docs" / "results.md"
SUPERVISIONS = {
    "full": "all labels",
    "few": "few labels",
    "mean_teacher": "Mean Teacher",
    "vat": "VAT",
    "fixmatch": "FixMatch",
}
SCORES = {"log_likelihood": "likelihood", "consensus": "consensus"}
SOFTMAX = "softmax"
KEPT = ("auroc", "fpr_at_95_tpr", "mann_whitney_p_holm", "ks_p_holm", "n")
SETTINGS = ("data.n_labelled", "trainer.max_epochs", "trainer.max_steps", "classifier._target_", "classifier.width")


def gather(folder: Path) -> list[dict[str, Any]]:
    """A row a run, from folders <study>/<supervision>/<score>/<seed>.

    Raises:
        FileNotFoundError: there is none.
    """
    rows = []
    for path in sorted(folder.glob("*/*/*/*/metrics.json")):
        study, supervision, score, seed = path.relative_to(folder).parts[:4]
        metrics, config = json.loads(path.read_text()), OmegaConf.load(path.parent / "config.yaml")
        sources = {
            name: {key: source.get(key) for key in KEPT} | {"softmax": source["baselines"]["max_softmax"]["auroc"]}
            for name, source in metrics["sources"].items()
        }
        within = metrics["sources"]["errors"]["within_class"]
        rows.append(
            {
                "study": study,
                "supervision": supervision,
                "score": score,
                "seed": int(seed),
                "title": metrics["title"],
                "accuracy": metrics["classifier"]["test_accuracy"],
                "false_alarms": metrics["calibration"]["false_alarm_rate"]["0.05"],
                "n_calibration": metrics["calibration"]["n"],
                "within_class_p": within.get("van_elteren_p_holm"),
                "sources": sources,
                "splits": metrics["splits"],
                "settings": {key: OmegaConf.select(config, key) for key in SETTINGS},
                "device": metrics["device"],
                "versions": metrics["versions"],
            }
        )
    if not rows:
        raise FileNotFoundError(f"no runs below {folder}: run gmm-torch experiment=paper first")
    return rows


def spread(values: Iterable[float | None]) -> str:
    """Mean and standard deviation over seeds, in per cent."""
    known = [value for value in values if value is not None]
    if not known:
        return MISSING
    deviation = f" ± {percent(statistics.stdev(known))}" if len(known) > 1 else ""
    return percent(statistics.mean(known)) + deviation


def detection(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """AUROC of every source: both scores and the softmax of each way of training."""
    lines = []
    for supervision, label in SUPERVISIONS.items():
        trained = [row for row in rows if row["supervision"] == supervision]
        for score, called in SCORES.items():
            found = [row for row in trained if row["score"] == score]
            if found:
                cells = [spread(row["sources"][name]["auroc"] for row in found) for name in names]
                lines.append((label, called, str(len(found)), spread(row["accuracy"] for row in found), *cells))
        if trained:
            once = list({row["seed"]: row for row in trained}.values())  # the softmax is that of the classifier
            cells = [spread(row["sources"][name]["softmax"] for row in once) for name in names]
            lines.append((label, SOFTMAX, str(len(once)), spread(row["accuracy"] for row in once), *cells))
    return pages.table(("labels", "score", "seeds", "accuracy", *map(source_label, names)), lines)


def hypotheses(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """The largest corrected p-value over seeds, of the paper's score."""
    lines = []
    for supervision, label in SUPERVISIONS.items():
        found = [row for row in rows if (row["supervision"], row["score"]) == (supervision, "log_likelihood")]
        if not found:
            continue
        for test, called in (("mann_whitney_p_holm", "Mann-Whitney"), ("ks_p_holm", "Kolmogorov-Smirnov")):
            values = [[row["sources"][name][test] for row in found] for name in names]
            lines.append((f"{label}, {called}", *(p_value_text(_largest(each)) for each in values)))
        within = _largest([row["within_class_p"] for row in found])
        lines.append((f"{label}, van Elteren", p_value_text(within), *([MISSING] * (len(names) - 1))))
    return pages.table(("", *map(source_label, names)), lines)


def _largest(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None


def _range(values: Iterable[int]) -> str:
    found = sorted(set(values))
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def facts(rows: Sequence[Mapping[str, Any]]) -> str:
    """What a study's numbers rest on."""
    first = rows[0]
    few = {row["settings"]["data.n_labelled"] for row in rows} - {None}
    seeds = sorted({row["seed"] for row in rows})
    alarms = [row["false_alarms"] for row in rows]
    words = [
        "AUROC and accuracy in %, mean ± standard deviation over seeds",
        f"seeds {', '.join(map(str, seeds))}",
        f"{first['splits']['test']} test images",
        f"{_range(row['n_calibration'] for row in rows)} calibration images",
        f"false alarms at 0.05: {percent(min(alarms))} to {percent(max(alarms))} %",
    ]
    if few:
        steps = {row["settings"]["trainer.max_steps"] for row in rows} - {None, -1}
        words.append(f"few labels: {_range(few)}, {_range(steps)} steps")
    full = [row for row in rows if row["supervision"] == "full"]
    if full:
        epochs = _range(row["settings"]["trainer.max_epochs"] for row in full)
        words.append(f"all labels: {_range(row['splits']['train'] for row in full)} images, {epochs} epochs")
    network = first["settings"]["classifier._target_"].rpartition(".")[2]
    width = first["settings"]["classifier.width"]
    words.append(network if width is None else f"{network} of width {width}")
    for name in first["sources"]:
        if all(name in row["sources"] for row in rows):
            words.append(f"{source_label(name)} n = {_range(row['sources'][name]['n'] for row in rows)}")
    versions = first["versions"]
    return "; ".join([*words, first["device"], *(f"{name} {versions[name]}" for name in ("gmm_torch", "torch"))])


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """All studies, one after another."""
    parts = []
    for study in dict.fromkeys(row["study"] for row in rows):
        found = [row for row in rows if row["study"] == study]
        names = [name for name in found[0]["sources"] if all(name in row["sources"] for row in found)]
        parts += [f"## {found[0]['title']}", detection(found, names), facts(found) + "."]
        parts += [
            "Tests of hypotheses, likelihood: the largest p-value (Holm) over the seeds.",
            hypotheses(found, names),
        ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    rows = gather(Path(sys.argv[1]) if len(sys.argv) > 1 else pages.ROOT / "runs" / "paper")
    with atomic_path(RESULT) as temporary:
        # One line a run: a table of many short lists reads badly over ten thousand lines.
        text = ",\n".join(json.dumps(row) for row in rows)
        temporary.write_text(re.sub(r"\bNaN\b", "null", f"[\n{text}\n]\n"))
    pages.fill(PAGE, "paper", page(rows))
    print(f"{PAGE}: {len(rows)} runs")
