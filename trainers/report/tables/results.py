"""The results table of a run in words and figures: for the terminal and for the README."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

COLUMNS = ("source", "n", "AUROC", "softmax AUROC", "FPR at 95 % TPR", "p (Holm)")
BASELINE = "max_softmax"
MISSING = "–"


class Row(NamedTuple):
    """One source of failure, as text; `winner` compares our AUROC with that of the softmax."""

    cells: tuple[str, ...]
    winner: int


def percent(share: float | None, digits: int = 1) -> str:
    """0.8794 -> "87.9", None -> a dash."""
    return MISSING if share is None else f"{100 * share:.{digits}f}"


def p_value_text(p: float | None) -> str:
    """A p-value in two significant digits, with a floor where the number means nothing any more."""
    if p is None:
        return MISSING
    if p < 1e-99:
        return "< 1e-99"
    return f"{p:.2g}" if p >= 0.001 else f"{p:.0e}"


def source_label(source: str) -> str:
    """The source in plain words: "adversarial/cw_l2" -> "cw l2 attack", "ood/mnist" -> "mnist (OOD)"."""
    kind, _, name = source.partition("/")
    name = name.replace("_", " ")
    return {"errors": "test errors", "adversarial": f"{name} attack", "ood": f"{name} (OOD)"}.get(kind, source)


def winner(ours: float | None, baseline: float | None) -> int:
    """1 where ours is the higher, -1 where the baseline is, 0 where they agree to a tenth of a per cent."""
    if ours is None or baseline is None:
        return 0
    difference = round(100 * ours, 1) - round(100 * baseline, 1)
    return (difference > 0) - (difference < 0)


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """The table for the terminal, the better AUROC of each row in bold; AUROC and FPR in per cent."""
    table = Table(caption=caption(metrics), caption_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "source" else "right", no_wrap=column == "source")
    for cells, better in _rows(metrics):
        styles = {2: "bold" if better > 0 else "", 3: "bold" if better < 0 else ""}
        table.add_row(*(Text(cell, style=styles.get(i, "")) for i, cell in enumerate(cells)))
    return table


def metrics_markdown(metrics: Mapping[str, Any]) -> str:
    """The same table as Markdown, with its caption below."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"| --- |{' ---: |' * (len(COLUMNS) - 1)}"]
    for cells, better in _rows(metrics):
        marked = list(cells)
        if better:
            column = 2 if better > 0 else 3
            marked[column] = f"**{marked[column]}**"
        lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in marked)} |")
    return "\n".join([*lines, "", caption(metrics), ""])


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
        alarm += f" (95 % interval {percent(interval[0])} to {percent(interval[1])})"
    return "; ".join([*facts, alarm])


def n_test_images(metrics: Mapping[str, Any]) -> int:
    """The number of clean test images, 0 where the run does not say."""
    errors = metrics["sources"].get("errors", {})
    return int(errors.get("n", 0) + errors.get("n_good", 0))


def _rows(metrics: Mapping[str, Any]) -> list[Row]:
    rows = []
    for name, source in metrics["sources"].items():
        softmax = source["baselines"].get(BASELINE, {}).get("auroc")
        cells = (
            source_label(name),
            str(source["n"]),
            percent(source["auroc"]),
            percent(softmax),
            percent(source["fpr_at_95_tpr"]),
            p_value_text(source.get("mann_whitney_p_holm")),
        )
        rows.append(Row(cells, winner(source["auroc"], softmax)))
    return rows
