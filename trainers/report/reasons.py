"""Explanations of refused images."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmm_torch.detection.explanation.explanation import ComponentFacts, InputExplanation, mixture_in_words
from gmm_torch.detection.explanation.explanation import in_words as part_in_words
from trainers.records.record import TEST, Records
from trainers.report.evaluation import Evaluation
from trainers.report.gallery import Tile, data_uri, gallery_rows, tile
from trainers.report.tables.text import MISSING, percent, source_label
from trainers.report.words import class_name, in_words

N_TEST, N_FAILURE = 6, 2  # refused images of each source
SMALLEST = 1e-3  # the p-value at which a bar is full


class Meter(NamedTuple):
    """A number with a bar of `width` per cent."""

    name: str
    value: str
    width: float
    marked: bool


class Neighbour(NamedTuple):
    """A fitting image that is near."""

    source: str  # data URI
    prediction: str
    distance: str


class Reason(NamedTuple):
    """One refused image and what is known about the reason."""

    tile: Tile
    parts: list[Meter]
    views: list[Meter]
    mixture: str
    component: str
    unusual: str
    features: list[tuple[str, str]]
    neighbours: list[Neighbour]


class Reasons(NamedTuple):
    """Refused images of one source."""

    title: str
    reasons: list[Reason]


def reason_rows(records: Records) -> dict[str, list[int]]:
    """The rows that the report explains: source -> refused rows of the gallery, the lowest p-values first.

    Among the clean test images wrong predictions and false alarms take turns, as long as there are both.
    """
    chosen = {}
    for source, ends in gallery_rows(records).items():
        refused = [row for row in ends["lowest"] if not records.accept[row]]
        if source == TEST:
            wrong = [row for row in refused if records.wrong[row]][: N_TEST // 2]
            right = [row for row in refused if row not in wrong][: N_TEST - len(wrong)]
            refused = sorted(wrong + right, key=refused.index)
        chosen[source] = refused[: N_TEST if source == TEST else N_FAILURE]
    return chosen


def reasons(evaluation: Evaluation) -> list[Reasons]:
    """The explanations of the page, those of clean test images first; none where the evaluation has none."""
    if not (evaluation.explanations and evaluation.images):
        return []
    found = []
    for source, rows in reason_rows(evaluation.records).items():
        name = "clean test images" if source == TEST else source_label(source)
        explained = [
            reason_of(
                tile(evaluation, row), evaluation.explanations[row], evaluation.class_names, evaluation.neighbours
            )
            for row in rows
            if row in evaluation.explanations
        ]
        if explained:
            found.append(Reasons(name, explained))
    return sorted(found, key=lambda each: each.title != "clean test images")


def reason_of(
    tile: Tile,
    explanation: InputExplanation,
    names: Sequence[str],
    neighbours: Mapping[int, NDArray[np.uint8]] | None = None,
) -> Reason:
    """What is known about the reason for a verdict.

    Args:
        tile: the image.
        explanation: of it.
        names: of the classes.
        neighbours: position among the fitting images -> (H, W, 1 or 3), those to be shown.
    """
    name = explanation.leading
    facts = None if name is None else explanation.mixtures[name]
    return Reason(
        tile,
        [
            Meter(part_in_words(part), f"{p:.3f}", _width(p), part == explanation.dominant)
            for part, p in explanation.part_p_values.items()
        ],
        _views(explanation),
        "" if name is None else mixture_in_words(name),
        "" if facts is None else _component(facts, names),
        ". ".join(explanation.unusual),
        [] if facts is None else [(feature, _of(share, facts)) for feature, share in facts.features],
        [] if facts is None else _neighbours(facts, names, neighbours or {}),
    )


def _width(p: float) -> float:
    """Per cent of a bar: nothing at p = 1, full at p = `SMALLEST` and below; logarithmic."""
    return round(100 * min(1.0, math.log(max(p, SMALLEST)) / math.log(SMALLEST)), 1)


def _views(explanation: InputExplanation) -> list[Meter]:
    names = {"identity": "the image itself"}
    if len(explanation.views) == 1:
        names = {"identity": "probability of its class"}
    return [
        Meter(names.get(view, view), f"{percent(p, 0)} %", round(100 * p, 1), False)
        for view, p in explanation.views.items()
    ]


def _component(facts: ComponentFacts, names: Sequence[str]) -> str:
    if facts.component < 0:
        return "The features are not finite"
    made_of = in_words(facts.predictions, names)
    text = f"Component {facts.component}"
    text += f", fitting images predicted {made_of}" if made_of else ""
    if facts.error_rate is not None:
        text += f"; {facts.n_errors} of {facts.n_labelled} calibration images wrong"
    return text


def _of(share: float, facts: ComponentFacts) -> str:
    """Of the distance to the component, how much comes from one feature."""
    return f"{percent(share / facts.squared_distance, 0)}\u00a0%" if facts.squared_distance else MISSING


def _neighbours(
    facts: ComponentFacts, names: Sequence[str], pictures: Mapping[int, NDArray[np.uint8]]
) -> list[Neighbour]:
    return [
        Neighbour(data_uri(pictures[position]), class_name(prediction, names), f"{distance:.1f}")
        for position, distance, prediction in facts.nearest
        if position in pictures
    ]
