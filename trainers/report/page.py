"""The report's page: its figures, tables and images."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gmm_torch.detector.summary import PAGE
from trainers.data.errors import first_few
from trainers.report.components import sections
from trainers.report.conclusion import conclude, judged
from trainers.report.curves import Curves, budget_curves, severity_curves, shift_curves
from trainers.report.evaluation import Evaluation
from trainers.report.figures.em_history import em_history
from trainers.report.figures.features import beyond_frame, feature_components, feature_failures
from trainers.report.figures.p_values import p_value_histogram
from trainers.report.figures.rates import MAX_CLASSES, class_alarms, error_rate
from trainers.report.figures.score_histograms import Group, score_histograms
from trainers.report.figures.style import CORRECT, OURS, source_colour
from trainers.report.figures.thresholds import risk_coverage, roc
from trainers.report.gallery import galleries
from trainers.report.reasons import reasons
from trainers.report.svg import Panel, panel
from trainers.report.tables.attacks import every_attack_line
from trainers.report.tables.corruptions import mean
from trainers.report.tables.error_rates import area_text
from trainers.report.tables.results import caption
from trainers.report.tables.text import (
    BASELINE,
    MISSING,
    of_softmax,
    p_value_text,
    percent,
    percent_range,
    source_label,
)
from trainers.report.template import write_page


def write_report(evaluation: Evaluation, path: Path | str) -> list[Panel]:
    """Write the report of a run as one HTML page that needs nothing beside it; the page's figures, in their order."""
    metrics = evaluation.metrics
    conclusion = conclude(metrics)
    shown = galleries(evaluation)  # before the figures, which take long, and are not drawn for a mistake
    content = {
        "title": evaluation.title,
        "headline": conclusion.headline,
        "sentences": conclusion.sentences,
        "cards": _cards(evaluation),
        "findings": _findings(evaluation),
        "alpha": f"{evaluation.alpha:g}",
        "results": metrics["sources"].items(),
        "every_attack": every_attack_line(metrics),
        "caption": caption(metrics),
        "scores": _scores(evaluation),
        "p_values": _p_values(evaluation),
        "band": metrics["calibration"].get("grid") is not None,
        "class_alarms": _class_alarms(evaluation),
        "rocs": _rocs(evaluation),
        "diagnostics": metrics.get("attack_doubts", {}),
        "budgets": budget_curves(metrics),
        "corruptions": severity_curves(metrics),
        "shifts": shift_curves(metrics),
        "selection": _selection(evaluation),
        "error_rate": _error_rate(evaluation),
        "mixture": _mixture(evaluation),
        "planes": _planes(evaluation),
        "kinds": {name.partition("/")[0] for name in metrics["sources"] if evaluation.records.failures(name).any()},
        "components": sections(evaluation),
        "galleries": shown,
        "reasons": reasons(evaluation),
        "facts": _facts(evaluation),
    }
    write_page("report.html.j2", path, **content)
    return list(_panels(content.values()))


def _panels(content: Iterable[Any]) -> Iterator[Panel]:
    """The figures among what a page shows."""
    for each in content:
        if isinstance(each, Panel):
            yield each
        elif isinstance(each, Curves):
            yield from each.panels
        elif isinstance(each, list):
            yield from _panels(each)


def _findings(evaluation: Evaluation) -> list[Mapping[str, str]]:
    """Each with its text and the section of the documentation that says what to do."""
    return [
        {"text": found["text"][0].upper() + found["text"][1:], "where": f"What to do: {PAGE}#{found['section']}"}
        for found in evaluation.metrics.get("findings", [])
    ]


def _cards(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """Key figures: (name, value, small print)."""
    metrics = evaluation.metrics
    calibration = metrics["calibration"]
    compared = judged(metrics["sources"])
    n_test = int(evaluation.records.clean().sum())
    cards = [("Test accuracy", metrics["classifier"]["test_accuracy"], f"{n_test} test images")]
    if compared:
        softmax = percent(mean([of_softmax(s) for s in compared.values()]))
        over = f"over {len(compared)} of {len(metrics['sources'])} sources; softmax {softmax} %"
        weakest = min(compared, key=lambda name: compared[name]["auroc"])
        cards += [
            ("Mean AUROC", mean([s["auroc"] for s in compared.values()]), over),
            ("Weakest source", compared[weakest]["auroc"], f"AUROC on {source_label(weakest)}"),
        ]
    interval = f"; 95 % interval {percent_range(calibration['false_alarm_interval']['0.05'])} %"
    rate = calibration["false_alarm_rate"]["0.05"]
    cards.append(("False alarms", rate, f"at most 5 % were asked for{interval}"))
    return [(name, f"{percent(share)}\u00a0%", note.replace(" %", "\u00a0%")) for name, share, note in cards]


def _scores(evaluation: Evaluation) -> Panel:
    groups = [
        Group(label, evaluation.column("score", rows).astype(float), colour)
        for label, rows, colour in _kinds(evaluation)
    ]
    figure = score_histograms(groups, _threshold(evaluation), evaluation.alpha)
    return panel("scores", "Scores of each kind of image", "", figure)


def _kinds(evaluation: Evaluation) -> list[tuple[str, Tensor, str]]:
    """Label, rows and colour: of the correct predictions, and of the failures of each source."""
    records = evaluation.records
    kinds = [("correct", records.good("errors"), CORRECT)]
    kinds += [(source_label(s), records.failures(s), source_colour(s)) for s in evaluation.metrics["sources"]]
    return [kind for kind in kinds if kind[1].any()]


def _threshold(evaluation: Evaluation) -> float | None:
    """The lowest score that was accepted, where acceptance followed the score."""
    accept, score = evaluation.records.accept, evaluation.records.score.double()
    if accept.all() or not accept.any() or score[accept].min() < score[~accept].max():
        return None
    return float(score[accept].min())


def _p_values(evaluation: Evaluation) -> list[Panel]:
    kinds = [("all clean test images", evaluation.records.clean(), OURS), *_kinds(evaluation)]
    panels = []
    for i, (label, rows, colour) in enumerate(kinds):
        p = evaluation.column("p_value", rows).astype(float)
        refused = ~evaluation.column("accept", rows)
        note = f"n = {len(p)}; {percent(float(refused.mean()))} % at or below {evaluation.alpha:g}"
        figure = p_value_histogram(p, colour, evaluation.metrics["calibration"].get("grid"))
        panels.append(panel(f"p{i}", label, note, figure))
    return panels


def _class_alarms(evaluation: Evaluation) -> Panel | None:
    found = evaluation.metrics["calibration"].get("by_class", {})
    classes = [each for each in found.get("classes", []) if each["n"]]
    if not classes:
        return None
    names = [evaluation.name(each["name"]) for each in classes]
    rates, intervals = [each["rate"] for each in classes], [each["interval"] for each in classes]
    note = f"at {found['alpha']:g}, with {percent(found['confidence'], 0)} % intervals"
    if found.get("homogeneity_p") is not None:
        note += f"; test that all are equal: p = {p_value_text(found['homogeneity_p'])}"
    if len(classes) > MAX_CLASSES:
        note += f"; the {MAX_CLASSES} highest of {len(classes)}"
    figure = class_alarms(names, rates, intervals, found["alpha"])
    return panel("classes", "False alarms by predicted class", note, figure)


def _rocs(evaluation: Evaluation) -> list[Panel]:
    panels = []
    for i, (name, source) in enumerate(evaluation.metrics["sources"].items()):
        kinds = evaluation.records.good(name), evaluation.records.failures(name)
        if all(rows.any() for rows in kinds):
            note = f"AUROC {percent(source['auroc'])}, softmax {percent(of_softmax(source))}"
            ours, softmax = ([evaluation.column(score, rows) for rows in kinds] for score in ("score", BASELINE))
            panels.append(panel(f"roc{i}", source_label(name), note, roc(ours, softmax)))
    return panels


def _selection(evaluation: Evaluation) -> Panel | None:
    clean = evaluation.records.clean()
    wrong = evaluation.column("wrong", clean)
    if not wrong.any():
        return None
    errors = evaluation.metrics["sources"]["errors"]
    note = "; ".join(f"{name.upper()} {area_text(errors, name)}" for name in ("aurc", "augrc"))
    figure = risk_coverage(evaluation.column("score", clean), evaluation.column(BASELINE, clean), wrong)
    return panel("risk", "Risk against coverage", note, figure)


def _error_rate(evaluation: Evaluation) -> Panel | None:
    found = evaluation.metrics["sources"]["errors"]["error_rate"]
    if not evaluation.column("wrong", evaluation.records.clean()).any():
        return None
    note = f"with {percent(found['confidence'], 0)} % intervals"
    if found.get("trend_p_holm") is not None:
        note += f"; falls with the p-value: p (Holm) = {p_value_text(found['trend_p_holm'])}"
    return panel("error", "Error rate by p-value", note, error_rate(found["bins"]))


def _mixture(evaluation: Evaluation) -> list[Panel]:
    panels = []
    if len(evaluation.history):
        of = f"{evaluation.mixture}; " if evaluation.mixture else ""
        note = f"{of}{len(evaluation.history)} iterations, {evaluation.history[-1]:.2f} nats at the end"
        rises = evaluation.history[-1] >= max(evaluation.history)
        if not rises:
            note += "; it falls where covariances are shrunk, for the sake of new images"
        if not evaluation.converged:
            note += f"; not converged: raise {'mixture.em.max_iter or ' if rises else ''}mixture.em.tol"
        panels.append(panel("em", "Fit of the mixture", note, em_history(evaluation.history)))
    clean = evaluation.records.clean()
    if clean.any():
        name, component = _richest(evaluation)
        n_used = len(np.unique(component))
        figure = feature_components(evaluation.projection[clean], component)
        used = f"{n_used} component{'s are' if n_used != 1 else ' is'} in use"
        note = f"clean test images by component{f' of {name}' if name else ''}; {used}"
        panels.append(panel("components", "Features by component", note, figure))
    return panels


def _richest(evaluation: Evaluation) -> tuple[str, NDArray[Any]]:
    """The mixture with the most components in use, and the component of each clean test image in it."""
    if not evaluation.components:
        return "", evaluation.column("component", evaluation.records.clean()).astype(int)
    used = {name: len(np.unique(each.component)) for name, each in evaluation.components.items()}
    name = max(used, key=lambda name: used[name])
    return name, evaluation.components[name].component


def _planes(evaluation: Evaluation) -> list[Panel]:
    correct = evaluation.records.good("errors")
    panels = []
    for i, name in enumerate(evaluation.metrics["sources"]):
        failures = evaluation.records.failures(name)
        if correct.any() and failures.any():
            points = evaluation.projection[correct], evaluation.projection[failures]
            figure = feature_failures(*points, source_colour(name))
            n, beyond = int(failures.sum()), beyond_frame(*points)
            note = f"n = {n}" + (f", {'all' if beyond == n else beyond} beyond the frame" if beyond else "")
            panels.append(panel(f"plane{i}", source_label(name), note, figure))
    return panels


def _facts(evaluation: Evaluation) -> list[tuple[str, str]]:
    metrics = evaluation.metrics
    calibration = metrics["calibration"]
    facts = [
        ("Seed", str(metrics["seed"])),
        ("Device", str(metrics["device"])),
        ("Test accuracy", f"{percent(metrics['classifier']['test_accuracy'], 2)} %"),
        ("Clean test images", str(int(evaluation.records.clean().sum()))),
        ("Mixtures fitted to", _fitted_to(metrics)),
        ("Calibrated on", _with_reference(calibration["n"], metrics.get("splits", {}).get("calibration"))),
    ]
    facts += [(f"Split: {name}", f"{size} images") for name, size in metrics.get("splits", {}).items()]
    for name, found in metrics.get("left_out", {}).items():
        text = f"{found['n']:,} that can't be read: {first_few(found['files'], len(found['files']), found['n'])}"
        facts.append((f"Left out of {source_label(name)}", text))
    for alpha, rate in calibration["false_alarm_rate"].items():
        interval = percent_range(calibration["false_alarm_interval"][alpha], 2)
        facts.append((f"False alarms at {alpha}", f"{percent(rate, 2)} % ({interval})"))
    for name, source in metrics["sources"].items():
        if source.get("success_rate") is not None:
            facts.append((f"Success of {source_label(name)}", f"{percent(source['success_rate'])} % of attacked"))
    facts += [(f"Looked at: {name}", line) for name, line in metrics.get("looked_at", {}).items()]
    facts += [(f"Version of {name}", str(version)) for name, version in metrics["versions"].items()]
    return [(name, value or MISSING) for name, value in facts]


def _fitted_to(metrics: Mapping[str, Any]) -> str:
    """Which of the images of the mixture split, in words; empty where the run does not say."""
    if (kept := metrics.get("n_kept")) is None:
        return ""
    drawn = f" drawn from {metrics['n_fitted']}" if kept < metrics["n_fitted"] else ""
    return _with_reference(kept - metrics["n_held_out_of_mixtures"], kept) + drawn


def _with_reference(n: int, n_all: int | None) -> str:
    """How many images of a split serve, and what the others are for."""
    if n_all and n < n_all:
        return f"{n} of {n_all}; the other {n_all - n} are a reference of the score"
    return f"{n} images"
