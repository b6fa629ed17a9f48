"""The error rate of the classifier by p-value."""

from collections.abc import Mapping
from typing import Any

from trainers.report.tables.format import TextTable
from trainers.report.tables.text import MISSING, of_softmax, p_value_text, percent, percent_range

COLUMNS = ("p-value", "images", "wrong", "error rate", "interval")


def error_table(metrics: Mapping[str, Any]) -> TextTable:
    """A row a bin of p-values; rates in per cent."""
    rows = [
        (
            f"{each['low']:g} to {each['high']:g}",
            str(each["n"]),
            str(each["n_errors"]),
            percent(each["rate"]),
            percent_range(each["interval"]) if each["n"] else MISSING,
        )
        for each in metrics["sources"]["errors"]["error_rate"]["bins"]
    ]
    return TextTable(COLUMNS, rows, error_caption(metrics), left=0, wraps=False)


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
        facts.append(
            f"AUROC within predicted classes {percent(within['superiority'])} ({percent_range(within['interval'])}), "
            f"p (Holm) = {p_value_text(within['van_elteren_p_holm'])}"
        )
    facts += [f"{name.upper()} {area_text(errors, name)}" for name in ("aurc", "augrc")]
    return "; ".join(facts)


def area_text(errors: Mapping[str, Any], name: str) -> str:
    """An area under a curve of selective prediction, ours and that of the softmax."""
    text = f"{percent(errors[name], 2)} %"
    baseline = of_softmax(errors, name)
    return text if baseline is None else f"{text}, softmax {percent(baseline, 2)} %"
