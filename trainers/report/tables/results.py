"""The results of a run: a row a source of failure."""

from collections.abc import Mapping
from typing import Any

from trainers.report.tables.format import TextTable
from trainers.report.tables.text import of_softmax, p_value_text, percent, percent_range, source_label, winner


def results_table(metrics: Mapping[str, Any]) -> TextTable:
    """A row a source, the better AUROC in bold; AUROC, FPR and failures refused in per cent."""
    rows, bold = [], set()
    for i, (name, source) in enumerate(metrics["sources"].items()):
        rows.append(
            (
                source_label(name),
                str(source["n"]),
                percent(source["auroc"]),
                percent(of_softmax(source)),
                percent(source["fpr_at_95_tpr"]),
                percent(source["refused"]),
                p_value_text(source.get("mann_whitney_p_holm")),
            )
        )
        if better := winner(source["auroc"], of_softmax(source)):
            bold.add((i, 2 if better > 0 else 3))
    refused = f"refused at {metrics['alpha']:g}, %"
    columns = ("source", "n", "AUROC", "softmax AUROC", "FPR at 95 % TPR", refused, "p (Holm)")
    return TextTable(columns, rows, caption(metrics), bold=bold)


def caption(metrics: Mapping[str, Any]) -> str:
    """What the numbers of the table rest on: n, seed, device, accuracy, the realised false alarm rate."""
    calibration = metrics["calibration"]
    facts = ["AUROC and FPR in %"]
    if n_test := n_test_images(metrics):
        facts.append(f"{n_test} test images")
    facts += [f"{calibration['n']} calibration images", f"seed {metrics['seed']}", str(metrics["device"])]
    facts.append(f"test accuracy {percent(metrics['classifier']['test_accuracy'])} %")
    alarm = f"false alarms at 0.05: {percent(calibration['false_alarm_rate'].get('0.05'))} %"
    if interval := calibration.get("false_alarm_interval", {}).get("0.05"):
        alarm += f" (95 % interval {percent_range(interval)})"
    return "; ".join([*facts, alarm])


def n_test_images(metrics: Mapping[str, Any]) -> int:
    """The number of clean test images, 0 where the run does not say."""
    errors = metrics["sources"].get("errors", {})
    return int(errors.get("n", 0) + errors.get("n_good", 0))
