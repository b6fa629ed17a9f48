import pytest
import torch

from gmm_torch.conformal import Calibration
from gmm_torch.conformal.mondrian import MondrianCalibration, class_rates
from gmm_torch.evaluation.rates import interval


def drawn(sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    classes = classes[torch.randperm(len(classes), generator=generator)]
    return torch.randn(len(classes), generator=generator) + 3 * classes, classes


def fitted(sizes, alpha=0.05, **options):
    scores, classes = drawn(sizes)
    return MondrianCalibration(len(sizes), **options).fit(scores, alpha, predictions=classes)


def test_p_values_by_hand():
    scores, classes = torch.tensor([1.0, 2.0, 2.0, 10.0, 20.0, 20.0]), torch.tensor([0, 0, 0, 1, 1, 1])
    calibration = MondrianCalibration(2).fit(scores, 0.5, predictions=classes)
    x, y = torch.tensor([2.0, 2.0, 20.0, torch.inf, torch.nan]), torch.tensor([0, 1, 1, 0, 1])
    torch.testing.assert_close(calibration.p_value(x, y), torch.tensor([4, 1, 4, 4, 1]).double() / 4)
    # one below and two equal; none; one below and two equal; three below; none
    expected = torch.tensor([1 + 0.5 * 3, 0.5, 1 + 0.5 * 3, 3.5, 0.5]).double() / 4
    torch.testing.assert_close(calibration.p_value(x, y, uniform=torch.full((5,), 0.5)), expected)
    assert calibration.threshold(0.5).tolist() == [2, 20]
    assert calibration.extra_repr() == "2 classes, all separate"


def test_with_one_class_it_is_the_plain_calibration():
    scores, classes = drawn([57])
    plain, mondrian = Calibration().fit(scores, 0.05), MondrianCalibration(1).fit(scores, 0.05, predictions=classes)
    x, y = torch.linspace(-4, 4, 100), torch.zeros(100, dtype=torch.long)
    assert torch.equal(mondrian.p_value(x, y), plain.p_value(x))
    assert torch.equal(mondrian.threshold(0.1, y), plain.threshold(0.1, y))


def test_small_classes_are_pooled_and_the_smallest_others_join_if_needed():
    calibration = fitted([40, 5, 30, 17, 0])
    scores, classes = drawn([40, 5, 30, 17, 0])
    assert calibration.pooled.tolist() == [False, True, False, True, True]
    assert calibration.group_sizes.tolist() == [40, 22, 30, 22, 22]
    pool = scores[(classes == 1) | (classes == 3)]
    p = calibration.p_value(torch.tensor([4.0]), torch.tensor([4]))
    torch.testing.assert_close(p, (1 + (pool <= 4).sum()[None]).double() / 23)
    assert "3 of 5 classes are pooled" in repr(calibration)
    assert fitted([40, 3, 25]).members.tolist() == [[True, False, False], [False, True, True], [False, True, True]]
    assert fitted([50, 30, 25], 0.1).pooled.sum() == 0
    assert fitted([50, 30, 25], 0.1, min_size=40).pooled.tolist() == [0, 1, 1]


def partition(classes, n_classes):
    """The group of the last input's class, if all before it are the calibration set."""
    scores = torch.arange(len(classes) - 1.0)
    calibration = MondrianCalibration(n_classes).fit(scores, 0.05, predictions=classes[:-1])
    return int(classes[-1]), tuple(calibration.members[classes[-1]].tolist())


@pytest.mark.parametrize("sizes", [(20, 19, 61), (20, 20, 60), (12, 8, 60), (11, 8, 60), (3, 2, 40)])
def test_the_groups_do_not_depend_on_which_input_is_the_new_one(sizes):
    bag = drawn(sizes)[1]
    groups = {partition(torch.cat([bag[:new], bag[new + 1 :], bag[new, None]]), 3) for new in range(len(bag))}
    assert len(groups) == 3  # one and the same for all inputs of a class
    members = torch.tensor([group for _, group in sorted(groups)])
    assert torch.equal(members, members.T)  # and they divide the classes
    assert torch.equal((members.int() @ members.int()) > 0, members)


def test_it_exports_with_a_dynamic_batch():
    class Judge(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.calibration = fitted([40, 5, 30, 17])

        def forward(self, score, logits):
            return self.calibration.p_value(score, logits.argmax(-1))

    judge, batch = Judge(), torch.export.Dim("batch", min=2)
    x, logits = torch.randn(7), torch.randn(7, 4)
    program = torch.export.export(judge, (x, logits), dynamic_shapes=({0: batch}, {0: batch}))
    x, logits = torch.randn(23) + 4, torch.randn(23, 4)
    torch.testing.assert_close(program.module()(x, logits), judge(x, logits))


def test_bad_arguments_are_refused():
    scores, classes = drawn([40, 40])
    calibration = MondrianCalibration(2)
    for wrong in (None, classes[1:], classes.float(), classes + 1):
        with pytest.raises(ValueError, match="predictions: expected"):
            calibration.fit(scores, 0.1, predictions=wrong)
    calibration.fit(scores, 0.1, predictions=classes)
    with pytest.raises(ValueError, match="predictions: expected classes 0 to 1; got -1 to 0"):
        calibration.p_value(scores[:2], torch.tensor([-1, 0]))
    with pytest.raises(ValueError, match="min_size: expected"):
        MondrianCalibration(2, min_size=0)


def test_rates_by_class_by_hand():
    first, second = class_rates(torch.tensor([1, 0, 1, 0, 0]), torch.tensor([7, 2, 7, 7, 2]))
    assert (first.name, first.n, first.n_refused, first.rate) == (2, 2, 0, 0)
    assert (second.name, second.n, second.n_refused, second.interval) == (7, 3, 2, interval(2, 3))
