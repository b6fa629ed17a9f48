from dataclasses import replace

import numpy as np
import pytest
import torch

from gmm_torch.detector.component_report import component_report
from trainers.evaluation.components import Components
from trainers.report.components import component_summary, sections, sheet_rows


@pytest.fixture(scope="module")
def explained(make_evaluation):
    return make_evaluation(explained=True)


def made_up(component, wrong, n_components, held_out=None):
    label = torch.zeros(len(component), dtype=torch.long)
    found = component_report(torch.as_tensor(component), torch.as_tensor(wrong).long(), label, n_components)
    return Components(found, np.asarray(component), held_out)


def test_lines_are_the_components_with_test_images_by_error_rate(explained):
    (section,) = sections(explained)
    assert section.name == "moment_likelihood"
    assert section.title == "moment_likelihood, over the features of the layers"
    wrong = explained.column("wrong", explained.records.clean())
    component = np.arange(200) % 4
    assert {line.component for line in section.lines} == {0, 1, 2, 3}
    rates = [float(line.error_rate) for line in section.lines]
    assert rates == sorted(rates, reverse=True)
    for line in section.lines:
        rows = component == line.component
        assert (line.n, line.n_errors) == (rows.sum(), (rows & wrong).sum())
        assert float(line.error_rate) == pytest.approx(100 * wrong[rows].mean(), abs=0.05)
        assert line.held_out == ["3 of 30", "2 of 20", "1 of 10", "0 of 5"][line.component]
        assert " taken for " in line.confusions


def test_sheets_show_the_missed_errors_and_the_most_typical_images_of_their_own_component(explained):
    (components,) = explained.components.values()
    rows = sheet_rows(explained.records, components)
    records = explained.records
    wrong = records.wrong.numpy()
    for k, chosen in rows.items():
        own = np.flatnonzero(records.source == "test") % 4 == k
        assert wrong[chosen["wrong"]].all()
        assert not wrong[chosen["right"]].any()
        assert own[chosen["wrong"] + chosen["right"]].all()
        p = records.p_value[:200][own & wrong[:200]]
        np.testing.assert_array_equal(records.p_value[chosen["wrong"]], np.sort(p)[::-1][:6])
        scores = records.score[:200][own & ~wrong[:200]]
        np.testing.assert_array_equal(records.score[chosen["right"]], np.sort(scores)[::-1][:6])


def test_components_without_errors_have_no_sheet_unless_none_has_errors(explained, make_evaluation):
    records = explained.records
    keep = torch.arange(len(records)) % 4 != 3
    records = replace(records, prediction=torch.where(keep, records.prediction, records.label))
    clean = records.rows(records.clean())
    found = component_report(torch.arange(200) % 4, clean.prediction, clean.label, 5)
    assert set(sheet_rows(records, Components(found, np.arange(200) % 4))) == {0, 1, 2}
    perfect = make_evaluation(explained=True, n_errors=0)
    assert set(sheet_rows(perfect.records, perfect.components["moment_likelihood"])) == {0, 1, 2, 3}


def test_the_conclusion_says_where_half_of_the_errors_are():
    component = np.repeat([0, 1, 2], [100, 50, 50])
    wrong = np.zeros(200, int)
    wrong[100:120] = 1  # 20 of 50 in component 1
    wrong[:5] = 1
    found = component_summary(made_up(component, wrong, 4))
    assert found.startswith("3 of 4 components hold test images, the largest 50.0\u00a0% of them.")
    assert "One of them holds 20 of the 25 errors with 25.0\u00a0% of the images." in found
    assert "differs between components (permutation test, p = 1e-04)" in found


def test_a_difference_that_calibration_images_do_not_show_is_told():
    component = np.repeat([0, 1], [100, 50])
    wrong = np.zeros(150, int)
    wrong[100:115] = 1
    found = component_summary(made_up(component, wrong, 2, np.array([[100, 5], [50, 2]])))
    assert "permutation test, p = 1e-04; on the calibration images p = " in found
    assert float(found.rpartition("= ")[2].rstrip(").")) > 0.5


def test_no_difference_and_no_errors_are_said_plainly():
    component = np.arange(200) % 2
    assert "No difference of error rates is shown" in component_summary(
        made_up(component, (np.arange(200) < 40) * 1, 2)
    )
    assert component_summary(made_up(component, np.zeros(200, int), 2)).endswith(
        "None of the 200 is predicted wrongly."
    )


def test_one_component_tells_nothing_apart(make_evaluation):
    found = made_up(np.zeros(200, int), np.arange(200) < 20, 10)
    assert component_summary(found) == "All test images are in one of 10 components, so it tells nothing apart."
    (section,) = sections(make_evaluation(explained=True, components={"m": found}))
    assert section.sheets == []
    assert len(section.lines) == 1


def test_a_long_table_is_cut_and_says_so(make_evaluation):
    found = made_up(np.arange(200) % 50, np.arange(200) < 20, 50)
    (section,) = sections(make_evaluation(explained=True, images=False, components={"m": found}))
    assert len(section.lines) == 40
    assert section.n_left_out == 10


def test_the_mixture_with_most_components_in_use_comes_first(make_evaluation):
    wrong = np.arange(200) < 20
    components = {"poor": made_up(np.zeros(200, int), wrong, 5), "rich": made_up(np.arange(200) % 5, wrong, 5)}
    found = sections(make_evaluation(explained=True, images=False, components=components))
    assert [section.name for section in found] == ["rich", "poor"]
