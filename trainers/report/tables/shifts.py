"""Plain against weighted calibration, on images from elsewhere."""

from collections.abc import Mapping
from typing import Any

from trainers.report.tables.format import TextTable
from trainers.report.tables.text import MISSING, percent

COLUMNS = ("images from", "wrong", "false alarms", "weighted", "wrong refused", "weighted", "ESS")


def shift_table(metrics: Mapping[str, Any]) -> TextTable:
    """A row a set, the test images as they are first."""
    found = metrics["shifts"]
    rows = []
    for row in found["rows"]:
        plain, weighted = row["plain"], row["weighted"]
        size = weighted.get("effective_size")
        rows.append(
            (
                where(row),
                percent(row["error_rate"]),
                *(percent(each.get("false_alarm_rate")) for each in (plain, weighted)),
                *(percent(each.get("refusal_rate_at_alpha")) for each in (plain, weighted)),
                MISSING if size is None else f"{size:.0f}",
            )
        )
    n = ", ".join(sorted({str(row["n"]) for row in found["rows"]}))
    caption = (
        f"in %, of {n} images judged and as many others, without labels, that weights were learnt "
        f"from; false alarms: refused of all, of which at most {100 * found['alpha']:g} % are promised to be; wrong "
        "refused: of the wrong predictions, where as many of the right ones are; ESS: effective sample size of the "
        f"calibration images; {MISSING}: nothing can be promised, and the run says so"
    )
    return TextTable(COLUMNS, rows, caption)


def where(row: Mapping[str, Any]) -> str:
    """What is said of the images of a row."""
    if not row["kind"]:
        return "the same place"
    return row["kind"].replace("_", " ") if row["shift"] == "corruptions" else f"{row['shift']}: {row['kind']}"
