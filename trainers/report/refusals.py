"""The page of refused images."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from gmm_torch.conformal.drift import ComponentChange, Stretch
from gmm_torch.detector.explanation import Explanation
from trainers.records.verdicts import VerdictSummary
from trainers.report.figures.p_values import p_value_histogram, p_values_over_time
from trainers.report.figures.style import OURS, WIDE
from trainers.report.gallery import Tile, data_uri
from trainers.report.reasons import reason_of
from trainers.report.svg import Panel, panel
from trainers.report.tables.text import percent, percent_range
from trainers.report.template import write_page


class Change(NamedTuple):
    """What the page shows after an alarm."""

    alarm_at: int  # index of the image that raised it
    stretches: Sequence[Stretch]  # p-values over the stream
    mixture: str  # the name of the one whose components are compared
    # Of each component that grew, the least typical images: path and (H, W, 1 or 3).
    examples: Mapping[ComponentChange, Sequence[tuple[str, NDArray[np.uint8]]]]


def write_refusals(
    summary: VerdictSummary,
    images: Sequence[NDArray[np.uint8]],
    explanations: Sequence[Explanation],
    path: Path | str,
    *,
    alpha: float,
    grid: int | None,
    weighted_bars: str,
    class_names: Sequence[str],
    title: str,
    remarks: Sequence[str] = (),
    change: Change | None = None,
) -> None:
    """Write the refused images of a summary as one HTML page that needs nothing beside it.

    Args:
        summary: of the verdicts.
        images, explanations: (H, W, 1 or 3) each, and why; those of `summary.refused`.
        alpha, grid: of the detector, see `Calibration.grid`.
        weighted_bars: where its calibration images have weights, sentences on what the histogram shows; else empty.
        title, remarks: the line above the headline, and sentences below it.
        change: after an alarm.
    """
    refusals = [
        (row.path, reason_of(Tile(data_uri(image), row.class_name, "", why.p_value, False), why, class_names, {}))
        for row, image, why in zip(summary.refused, images, explanations, strict=True)
    ]
    like = "the weighted calibration images" if weighted_bars else "the calibration images"
    write_page(
        "refusals.html.j2",
        path,
        title=title,
        headline=_headline(summary, change),
        sentences=[each.replace(" %", "\u00a0%") for each in (_expected(summary, alpha, like), *remarks)],
        like=like,
        alpha=f"{alpha:g}",
        histogram=_histogram(summary, alpha, grid),
        band=grid is not None,
        weighted_bars=weighted_bars,
        over_time=_over_time(change) if change else None,
        mixture=change.mixture if change else "",
        grown=_grown(change) if change else [],
        refusals=refusals,
        order=_order(summary),
        unreadable=[(row.path, row.error.removeprefix(row.path).lstrip(": ")) for row in summary.unreadable],
        n_unreadable=summary.n_unreadable,
    )


def _over_time(change: Change) -> Panel:
    n = change.stretches[-1].start + change.stretches[-1].n
    figure = p_values_over_time(change.stretches, change.alarm_at)
    note = f"alarm at image {change.alarm_at + 1:,} of {n:,}"
    return panel("time", "P-values in the order of the images", note, figure)


def _grown(change: Change) -> list[tuple[str, list[tuple[str, Markup, str]]]]:
    """Of each component a heading, and its examples: name of the file, the same with its breaks, and image."""
    return [
        (
            f"Component {each.component} of {change.mixture}: {percent(each.share_now)} % "
            f"({percent_range((each.low, each.high))}) of the images, {percent(each.share_before)} % of held-out ones",
            [(Path(path).name, breakable(Path(path).name), data_uri(image)) for path, image in examples],
        )
        for each, examples in change.examples.items()
    ]


def breakable(name: str) -> Markup:
    """The name of a file, which may be broken behind what separates its words."""
    return Markup("<wbr>").join(re.findall(r"[^-_.\s]*[-_.\s]*", name)[:-1])


def _headline(summary: VerdictSummary, change: Change | None) -> str:
    n = summary.n_unreadable
    drift = f"Drift at image {change.alarm_at + 1:,}; " if change else ""
    headline = f"{drift}{summary.n_refused - n:,} of {summary.n - n:,} images refused"
    return f"{headline}; {n:,} more can't be read" if n else headline


def _expected(summary: VerdictSummary, alpha: float, like: str) -> str:
    n = len(summary.p_values)
    most = f"{alpha * n:,.0f}" if alpha * n >= 1 else f"{alpha * n:.1g}"
    return (
        f"Of {n:,} images like {like} at most about {most} would be refused: {100 * alpha:g}\u00a0% of them, on "
        "average over calibration sets."
    )


def _order(summary: VerdictSummary) -> str:
    n, shown = summary.n_refused - summary.n_unreadable, len(summary.refused)
    return f"The {shown:,} least typical of {n:,}" if shown < n else f"All {n:,}, the least typical first"


def _histogram(summary: VerdictSummary, alpha: float, grid: int | None) -> Panel | None:
    """None where no image can be read."""
    if not len(p := np.asarray(summary.p_values)):
        return None
    refused = summary.n_refused - summary.n_unreadable
    note = f"n = {len(p):,}; {percent(refused / len(p))} % at or below {alpha:g}"
    return panel("p", "All images", note, p_value_histogram(p, OURS, grid, WIDE))
