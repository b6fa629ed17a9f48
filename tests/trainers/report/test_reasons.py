import dataclasses

import numpy as np
import pytest
import torch

from trainers.report.gallery import gallery_rows
from trainers.report.reasons import reason_rows, reasons


@pytest.fixture(scope="module")
def explained(make_evaluation):
    return make_evaluation(explained=True)


def test_only_refused_images_are_explained_the_lowest_p_values_first(explained):
    records = explained.records
    chosen = reason_rows(records)
    assert {source: len(rows) for source, rows in chosen.items()} == {"test": 6, "adversarial/fgsm": 2, "ood/noise": 2}
    for source, rows in chosen.items():
        assert not records.accept[rows].any()
        assert (records.source[rows] == source).all()
        assert (np.diff(records.p_value[rows]) >= 0).all()
        assert set(rows) <= set(gallery_rows(records)[source]["lowest"])


def test_false_alarms_are_shown_beside_errors(explained):
    records = explained.records
    rows = reason_rows(records)["test"]
    refused = [row for row in gallery_rows(records)["test"]["lowest"] if not records.accept[row]]
    wrong = records.wrong.numpy()
    assert wrong[rows].sum() >= min(3, wrong[refused].sum())
    assert (~wrong[rows]).sum() >= min(3, (~wrong[refused]).sum())


def test_nothing_refused_is_nothing_to_explain(explained):
    everything = torch.ones(len(explained.records)).bool()
    records = dataclasses.replace(explained.records, accept=everything)
    assert not any(reason_rows(records).values())


def test_a_reason_holds_parts_views_component_features_and_neighbours(explained):
    groups = reasons(explained)
    assert [group.title for group in groups] == ["clean test images", "fgsm attack", "noise (OOD)"]
    row = reason_rows(explained.records)["test"][0]
    reason = groups[0].reasons[0]
    certainty, moments = reason.parts
    assert (certainty.name, certainty.value, certainty.marked) == ("the classifier's certainty", "0.100", False)
    assert certainty.width == pytest.approx(100 / 3, abs=0.1)  # one of three decades
    assert (moments.width, moments.marked) == (100, True)
    assert [(view.name, view.value) for view in reason.views] == [("the image itself", "60 %"), ("mirror", "20 %")]
    assert reason.mixture == "moment_likelihood, over the features of the layers"
    assert reason.component.startswith(f"Component {row % 3}, fitting images predicted ")
    assert reason.component.endswith(f"{row % 7} of 40 calibration images wrong")
    assert reason.unusual == (
        "The score was lowered most by the features of the layers (all 999 held-out inputs are more typical there; the "
        "largest deviations are at stage)"
    )
    assert reason.features == [("stage mean[3]", "1\u00a0%"), ("stage deviation[1]", "0\u00a0%")]
    assert [each.distance for each in reason.neighbours] == ["4.5", "5.5"]
    assert all(each.source.startswith("data:image/png") for each in reason.neighbours)


def test_neighbours_that_are_not_at_hand_are_left_out(make_evaluation):
    groups = reasons(make_evaluation(explained=True, neighbours={}))
    assert groups[0].reasons[0].neighbours == []


def test_features_that_are_not_finite_and_scores_without_a_mixture_are_said(make_evaluation, explained):
    row, other = reason_rows(explained.records)["test"][:2]
    given = explained.explanations[row]
    broken = dataclasses.replace(
        given.mixtures["moment_likelihood"], component=-1, squared_distance=float("inf"), features=(), nearest=()
    )
    changed = {
        row: dataclasses.replace(given, mixtures={"moment_likelihood": broken}),
        other: dataclasses.replace(given, mixtures={}, part_p_values={}, dominant=None),
    }
    first, second = reasons(make_evaluation(explained=True, explanations={**explained.explanations, **changed}))[
        0
    ].reasons[:2]
    assert first.component == "The features are not finite"
    assert (second.mixture, second.component, second.parts, second.features) == ("", "", [], [])
    assert second.views
