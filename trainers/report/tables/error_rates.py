"""The error rate by p-value of a run, in words and figures: for the terminal and for Markdown."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from trainers.report.tables.results import BASELINE, MISSING, p_value_text, percent

COLUMNS = ("p-value", "images", "wrong", "error rate", "interval")


def error_table(metrics: Mapping[str, Any]) -> Table:
    """The table for the terminal; rates in per cent."""
    table = Table(caption=error_caption(metrics), caption_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for row in _rows(metrics):
        table.add_row(*row)
    return table


def error_markdown(metrics: Mapping[str, Any]) -> str:
    """The same table as Markdown, with its caption below."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{' ---: |' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(row)} |" for row in _rows(metrics)]
    return "\n".join([*lines, "", error_caption(metrics), ""])


def error_caption(metrics: Mapping[str, Any]) -> str:
    """What the tests say: trend, rise against it, comparison within predicted classes; and the areas of selection."""
    errors = metrics["sources"]["errors"]
    rates, within = errors["error_rate"], errors["within_class"]
    facts = [
        f"error rate and its {percent(rates['confidence'], 0)} % interval in %",
        f"falls with the p-value: p (Holm) = {p_value_text(rates['trend_p_holm'])}",
        f"rises between two neighbours: p (Holm) = {p_value_text(rates['rise_p_holm'])}",
    ]
    if within["superiority"] is None:
        facts.append(f"within predicted classes: {MISSING} ({within['reason']})")
    else:
        low, high = within["interval"]
        facts.append(
            f"AUROC within predicted classes {percent(within['superiority'])} ({percent(low)} to {percent(high)}), "
            f"p (Holm) = {p_value_text(within['van_elteren_p_holm'])}"
        )
    facts += [f"{name.upper()} {_area(errors, name)}" for name in ("aurc", "augrc")]
    return "; ".join(facts)


def _area(errors: Mapping[str, Any], name: str) -> str:
    """An area under a curve of selective prediction, ours and that of the softmax."""
    text = f"{percent(errors[name], 2)} %"
    softmax = errors["baselines"].get(BASELINE)
    return text if softmax is None else f"{text}, softmax {percent(softmax[name], 2)} %"


def _rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for each in metrics["sources"]["errors"]["error_rate"]["bins"]:
        low, high = each["interval"]
        interval = f"{percent(low)} to {percent(high)}" if each["n"] else MISSING
        counts = (str(each["n"]), str(each["n_errors"]))
        rows.append((f"{each['low']:g} to {each['high']:g}", *counts, percent(each["rate"]), interval))
    return rows
