"""A finished run's numbers, tables and figures, given to the loggers of its Trainers."""

import re
import shutil
import string
import tempfile
from collections.abc import Mapping, Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from matplotlib import rc_context
from PIL import Image

from trainers.report.evaluation import Evaluation
from trainers.report.figures.style import RC
from trainers.report.svg import Panel
from trainers.report.tables.format import TextTable
from trainers.report.tables.text import BASELINE

FILES = ("report.html", "metrics.json", "scores.csv")
SHORT = {"fpr_at_95_tpr": "fpr95", BASELINE: "softmax"}


class Results(NamedTuple):
    """What a logger that takes more than numbers is given."""

    folder: Path  # with `FILES`, as they are found, `tables/*.md` and `figures/*.png`
    tables: Mapping[str, TextTable]  # by name
    figures: Mapping[str, str]  # name -> its heading and its note

    def figure(self, name: str) -> Path:
        """The file of a figure."""
        return self.folder / "figures" / f"{name}.png"


@rank_zero_only
def log_results(
    loggers: Sequence[Logger],
    evaluation: Evaluation,
    tables: Mapping[str, TextTable],
    figures: Sequence[Panel],
    folder: Path,
) -> None:
    """Log a finished run, whose files are in its folder, and end the loggers.

    Each gets the numbers (`detection_values`); TensorBoard also tables as text and figures as images, MLflow and
    Weights & Biases these and the files of the run as artifacts.
    """
    if not loggers:
        return
    values = detection_values(evaluation)
    with tempfile.TemporaryDirectory() as temporary:
        results = Results(Path(temporary), tables, {_name(each): f"{each.heading}. {each.note}" for each in figures})
        for name in FILES:
            shutil.copyfile(folder / name, results.folder / name)
        for part in ("tables", "figures"):
            (results.folder / part).mkdir()
        for name, table in tables.items():
            (results.folder / "tables" / f"{name}.md").write_text(table.markdown(), encoding="utf-8")
        for each in figures:
            with rc_context(RC):
                each.figure.savefig(results.figure(_name(each)), metadata={"Software": None})
        for logger in loggers:
            logger.log_metrics(values)
            _log_more(logger, results)
            logger.save()
            logger.finalize("success")


def detection_values(evaluation: Evaluation) -> dict[str, float]:
    """The numbers of metrics.json about detection, flat.

    Returns:
        `detection/accuracy`; `detection/false_alarm_rate`, at the run's alpha; of each source `detection/<source>/...`:
        `auroc`, `fpr95`, for errors `aurc`, `refused` (the share of its failures) and all other single numbers that
        are there, those of the softmax as `softmax_auroc` and so on; the same of `detection/every_attack`, and of each
        corruption, `detection/corruption/<name>/<severity>/...`; and `detection/held_out_log_likelihood/<mixture>`.
        What is undefined is left out.
    """
    metrics, records = evaluation.metrics, evaluation.records
    values = {
        "accuracy": metrics["classifier"]["test_accuracy"],
        "false_alarm_rate": 1 - float(records.accept[records.clean()].double().mean()),
    }
    sources = dict(metrics["sources"])
    if metrics["every_attack"]:
        sources["every_attack"] = metrics["every_attack"]
    for name, points in metrics["corruptions"].get("kinds", {}).items():
        sources |= {f"corruption/{name}/{point['severity']}": point for point in points}
    for name, source in sources.items():
        values |= _numbers(f"{name}/", source)
        for baseline, found in source["baselines"].items():
            values |= _numbers(f"{name}/{SHORT.get(baseline, baseline)}_", found)
    values |= _numbers("held_out_log_likelihood/", metrics["held_out_log_likelihood"])
    return {f"detection/{name}": value for name, value in values.items()}


def _numbers(prefix: str, found: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{prefix}{SHORT.get(name, name)}": float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _name(panel: Panel) -> str:
    """What a figure shows, in letters that every logger takes: `roc_pgd_attack`."""
    return f"{panel.key.rstrip(string.digits)}_{re.sub(r'[^a-z0-9]+', '_', panel.heading.lower()).strip('_')}"


@singledispatch
def _log_more(logger: Logger, results: Results) -> None:
    """Nothing, for a logger that takes numbers alone."""


@_log_more.register
def _(logger: TensorBoardLogger, results: Results) -> None:
    for name, table in results.tables.items():
        logger.experiment.add_text(f"detection/{name}", table.markdown())
    for name in results.figures:
        with Image.open(results.figure(name)) as image:
            pixels = np.asarray(image.convert("RGB"))
        logger.experiment.add_image(f"detection/{name}", pixels, dataformats="HWC")


@_log_more.register
def _(logger: MLFlowLogger, results: Results) -> None:
    logger.experiment.log_artifacts(logger.run_id, str(results.folder))


@_log_more.register
def _(logger: WandbLogger, results: Results) -> None:
    import wandb

    run = logger.experiment
    for name, table in results.tables.items():
        logger.log_table(f"detection/{name}", list(table.columns), [list(row) for row in table.rows])
    for name, caption in results.figures.items():
        logger.log_image(f"detection/{name}", [str(results.figure(name))], caption=[caption])
    page = (results.folder / "report.html").read_text(encoding="utf-8")
    run.log({"detection/report": wandb.Html(page, inject=False)})
    artifact = wandb.Artifact(f"detection-{run.id}", type="report")
    artifact.add_dir(str(results.folder))
    run.log_artifact(artifact)
    run.finish()
