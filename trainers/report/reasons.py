"""Explanations of refused images."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmm_torch.detector.explanation import ComponentFacts, Explanation, in_words, mixture_in_words
from trainers.records.record import TEST, Records
from trainers.report.evaluation import Evaluation
from trainers.report.gallery import Tile, data_uri, gallery_rows, tile, title_of
from trainers.report.tables.text import MISSING, class_name, classes_in_words, percent

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
    """The explanations of the page, in the order of the records; none where the evaluation has none."""
    if not (evaluation.explanations and evaluation.images):
        return []
    names, near, why = evaluation.class_names, evaluation.neighbours, evaluation.explanations
    found = [
        Reasons(title_of(source), [reason_of(tile(evaluation, row), why[row], names, near) for row in rows])
        for source, rows in reason_rows(evaluation.records).items()
    ]
    return [each for each in found if each.reasons]


def reason_of(
    tile: Tile, explanation: Explanation, names: Sequence[str], neighbours: Mapping[int, NDArray[np.uint8]]
) -> Reason:
    """What is known about the reason for a verdict; of the `neighbours` that `Evaluation` has, those are shown."""
    parts = [
        Meter(in_words(part), f"{p:.3f}", _width(p), part == explanation.dominant)
        for part, p in explanation.part_p_values.items()
    ]
    views, unusual = _views(explanation), ". ".join(explanation.unusual)
    if (name := explanation.leading) is None:
        return Reason(tile, parts, views, "", "", unusual, [], [])
    facts = explanation.mixtures[name]
    features = [(feature, _of(share, facts)) for feature, share in facts.features]
    near = [
        Neighbour(data_uri(neighbours[position]), class_name(prediction, names), f"{distance:.1f}")
        for position, distance, prediction in facts.nearest
        if position in neighbours
    ]
    return Reason(tile, parts, views, mixture_in_words(name), _component(facts, names), unusual, features, near)


def _width(p: float) -> float:
    """Per cent of a bar: nothing at p = 1, full at p = `SMALLEST` and below; logarithmic."""
    return round(100 * min(1.0, math.log(max(p, SMALLEST)) / math.log(SMALLEST)), 1)


def _views(explanation: Explanation) -> list[Meter]:
    itself = "the image itself" if len(explanation.views) > 1 else "probability of its class"
    return [
        Meter(itself if view == "identity" else view, f"{percent(p, 0)} %", round(100 * p, 1), False)
        for view, p in explanation.views.items()
    ]


def _component(facts: ComponentFacts, names: Sequence[str]) -> str:
    if facts.component < 0:
        return "The features are not finite"
    text = f"Component {facts.component}"
    if made_of := classes_in_words(facts.predictions, names):
        text += f", fitting images predicted {made_of}"
    if facts.error_rate is not None:
        text += f"; {facts.n_errors} of {facts.n_labelled} calibration images wrong"
    return text


def _of(share: float, facts: ComponentFacts) -> str:
    """Of the distance to the component, how much comes from one feature."""
    return f"{percent(share / facts.squared_distance, 0)}\u00a0%" if facts.squared_distance else MISSING
