"""Components of the mixtures, ranked by error rate: a table, and sheets of their images."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gmm_torch.detector.component_report import ComponentSummary
from gmm_torch.detector.explanation import mixture_in_words
from gmm_torch.evaluation.rates import homogeneity
from trainers.evaluation.components import Components
from trainers.records.record import Records
from trainers.report.evaluation import Evaluation
from trainers.report.gallery import Tile, gallery_rows, tile
from trainers.report.tables.text import MISSING, classes_in_words, p_value_text, percent, percent_range

N_SHEETS = 6  # components of a mixture whose images are shown, those with the highest error rates
N_WRONG, N_RIGHT = 6, 6  # images of a sheet
N_CONFUSIONS = 3  # in a line
N_ROWS = 40  # of a table


class ComponentLine(NamedTuple):
    """One component in the table, as text."""

    component: int
    predictions: str
    n: int
    n_errors: int
    error_rate: str
    interval: str
    held_out: str
    confusions: str


class Sheet(NamedTuple):
    """Images of one component."""

    title: str
    note: str
    wrong: list[Tile]
    right: list[Tile]


class Section(NamedTuple):
    """What the components of one mixture say, in words, as a table and as sheets."""

    name: str
    title: str
    summary: str
    lines: list[ComponentLine]
    n_left_out: int
    sheets: list[Sheet]


def sheet_rows(records: Records, components: Components) -> dict[int, dict[str, list[int]]]:
    """The rows that the sheets of a mixture show: component -> {"wrong", "right"} -> rows.

    Components without an error are left out, unless none has one. Wrong predictions come by p-value, the highest
    first: those that the detector missed. Right ones come by score, the most typical first.
    """
    clean = np.flatnonzero(records.clean())
    summaries = [each for each in components.found.components if each.n_errors] or list(components.found.components)
    wrong = records.wrong[clean].numpy()
    chosen = {}
    for summary in summaries[:N_SHEETS]:
        own = components.component == summary.component
        if own.any():
            missed = clean[own & wrong]
            missed = missed[np.lexsort((missed, -records.p_value[missed]))]
            right = clean[own & ~wrong]
            right = right[np.lexsort((right, -records.score[right]))]
            chosen[summary.component] = {"wrong": missed[:N_WRONG].tolist(), "right": right[:N_RIGHT].tolist()}
    return chosen


def shown_rows(records: Records, components: Mapping[str, Components]) -> set[int]:
    """The records whose images the page shows: galleries, explanations and sheets of components."""
    groups = [*gallery_rows(records).values()]
    groups += [kinds for each in components.values() for kinds in sheet_rows(records, each).values()]
    return {row for group in groups for rows in group.values() for row in rows}


def sections(evaluation: Evaluation) -> list[Section]:
    """One section a mixture, that with the most components in use first."""
    found = [_section(evaluation, name, components) for name, components in evaluation.components.items()]
    return sorted(found, key=lambda section: -len(section.lines) - section.n_left_out)


def _section(evaluation: Evaluation, name: str, components: Components) -> Section:
    occupied = _occupied(components)
    rows = sheet_rows(evaluation.records, components) if evaluation.images and len(occupied) > 1 else {}
    sheets = [_sheet(evaluation, name, each, rows[each.component]) for each in occupied if each.component in rows]
    summary = component_summary(components)
    if name == evaluation.mixture:
        summary += " The column component of scores.csv and of files of verdicts is of this mixture."
    lines = [_line(evaluation, each, components.held_out) for each in occupied[:N_ROWS]]
    return Section(name, mixture_in_words(name), summary, lines, len(occupied) - len(lines), sheets)


def _occupied(components: Components) -> list[ComponentSummary]:
    return [each for each in components.found.components if each.n]


def component_summary(components: Components) -> str:
    """What the table says, in a few sentences."""
    found, occupied = components.found, _occupied(components)
    if not occupied:
        return "No test image, so nothing is known."
    n_all = len(found.components)
    if len(occupied) == 1:
        return f"All test images are in one of {n_all} components, so it tells nothing apart."
    largest = max(each.n for each in occupied)
    purity = sum(each.n * each.predictions[0].share for each in occupied) / found.n
    used = (
        f"{len(occupied)} of {n_all} components hold test images, the largest {percent(largest / found.n)}\u00a0% of "
        f"them. Purity: {percent(purity)}\u00a0% have the prediction that is most frequent in their component."
    )
    if not found.n_errors:
        return f"{used} None of the {found.n} is predicted wrongly."
    # The fewest components that hold at least half of the errors.
    total, n_images, n_top = 0, 0, 0
    for each in sorted(occupied, key=lambda each: (-each.n_errors, each.n)):
        total, n_images, n_top = total + each.n_errors, n_images + each.n, n_top + 1
        if 2 * total >= found.n_errors:
            break
    holders = "One of them holds" if n_top == 1 else f"{n_top} of them hold"
    most = f"{holders} {total} of the {found.n_errors} errors with {percent(n_images / found.n)}\u00a0% of the images."
    test = f"p = {p_value_text(found.difference_p)}"
    if components.held_out is not None:
        size, errors = torch.as_tensor(components.held_out).T
        test += f"; on the calibration images p = {p_value_text(homogeneity(size, errors))}"
    differs = found.difference_p <= 0.05
    claim = "The error rate differs between components" if differs else "No difference of error rates is shown"
    return f"{used} {most} {claim} (permutation test, {test})."


def _line(evaluation: Evaluation, each: ComponentSummary, held_out: NDArray[Any] | None) -> ComponentLine:
    confusions = [
        f"{evaluation.name(label)} taken for {evaluation.name(prediction)}" + (f" ({n}\u00a0×)" if n > 1 else "")
        for label, prediction, n in each.confusions[:N_CONFUSIONS]
    ]
    return ComponentLine(
        each.component,
        classes_in_words(each.predictions, evaluation.class_names),
        each.n,
        each.n_errors,
        percent(each.error_rate),
        "–".join(map(percent, each.interval)),
        MISSING if held_out is None else f"{held_out[each.component, 1]} of {held_out[each.component, 0]}",
        "; ".join(confusions),
    )


def _sheet(evaluation: Evaluation, name: str, each: ComponentSummary, rows: Mapping[str, list[int]]) -> Sheet:
    predicted = classes_in_words(each.predictions, evaluation.class_names)
    of = f"{each.n_errors} of {each.n} test images (95 % interval {percent_range(each.interval)} %)"
    title = f"Component {each.component} of {name}: {percent(each.error_rate)} % wrong"
    wrong, right = ([tile(evaluation, row) for row in rows[kind]] for kind in ("wrong", "right"))
    return Sheet(title, f"{of}. Predicted: {predicted}.", wrong, right)
