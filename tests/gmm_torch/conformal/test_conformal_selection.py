import pytest
import torch

from gmm_torch.conformal.conformal_selection import conformal_selection, selection_p_values
from gmm_torch.conformal.false_discovery import discoveries

CALIBRATION = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
WRONG = torch.tensor([True, True, False, True, False, False, False])


def test_by_hand_wrong_ones_at_or_above_a_score_count():
    p = selection_p_values(torch.tensor([0.0, 2.0, 4.5, torch.nan, torch.inf]), CALIBRATION, WRONG)
    assert p.tolist() == pytest.approx([4 / 8, 3 / 8, 1 / 8, 1.0, 1 / 8])


def test_a_selection_is_benjamini_and_hochbergs():
    scores = torch.tensor([6.0, 5.5, 0.5, 7.0])
    found = conformal_selection(scores, CALIBRATION, WRONG, 0.2)
    assert torch.equal(found, discoveries(selection_p_values(scores, CALIBRATION, WRONG), 0.2))
    assert found.tolist() == [True, True, False, True]


def test_where_all_may_be_wrong_at_the_rate_of_all_all_go_out():
    scores = torch.rand(50, generator=torch.Generator().manual_seed(0))
    wrong = torch.arange(50) % 10 == 0
    assert conformal_selection(scores, scores, wrong, 0.2).all()


@pytest.mark.parametrize("wrong", [torch.zeros(7, dtype=torch.bool), WRONG])
def test_an_input_without_a_score_never_goes_out(wrong):
    scores = torch.tensor([torch.nan, 6.0, 8.0, -torch.inf])
    assert conformal_selection(scores, CALIBRATION, wrong, 0.9).tolist() == [False, True, True, False]


def test_bad_arguments_are_refused_in_words():
    with pytest.raises(ValueError, match="errors: expected one bool per calibration score"):
        selection_p_values(CALIBRATION, CALIBRATION, WRONG[:3])
    with pytest.raises(ValueError, match="errors: expected one bool"):
        selection_p_values(CALIBRATION, CALIBRATION, WRONG.float())
    with pytest.raises(ValueError, match="calibration scores: expected numbers"):
        selection_p_values(CALIBRATION, CALIBRATION * torch.nan, WRONG)
    with pytest.raises(ValueError, match="q: expected"):
        conformal_selection(CALIBRATION, CALIBRATION, WRONG, 1.0)
