import pytest
import torch

from gmm_torch.conformal.mondrian import MondrianCalibration
from gmm_torch.detector import Calibration
from gmm_torch.errors import NotFittedError


def drawn(sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    classes = classes[torch.randperm(len(classes), generator=generator)]
    return torch.randn(len(classes), generator=generator) + 3 * classes, classes


def test_p_values_by_hand():
    scores = torch.tensor([1.0, 2.0, 3.0, 10.0, 20.0, 30.0])
    classes = torch.tensor([0, 0, 0, 1, 1, 1])
    calibration = MondrianCalibration(2).fit(scores, 0.5, predictions=classes)
    p = calibration.p_value(torch.tensor([2.0, 2.0, 25.0, torch.inf, torch.nan]), torch.tensor([0, 1, 1, 0, 1]))
    torch.testing.assert_close(p, torch.tensor([3, 1, 3, 4, 1]).double() / 4)
    assert calibration.threshold(0.5).tolist() == [2, 20]
    assert not calibration.pooled.any()


def test_with_one_class_it_is_the_plain_calibration():
    scores, _ = drawn([57])
    plain = Calibration().fit(scores, 0.05)
    mondrian = MondrianCalibration(1).fit(scores, 0.05, predictions=torch.zeros(57, dtype=torch.long))
    x = torch.linspace(-4, 4, 100)
    torch.testing.assert_close(mondrian.p_value(x, torch.zeros(100, dtype=torch.long)), plain.p_value(x))
    assert mondrian.threshold(0.1)[0] == plain.threshold(0.1)


def test_small_classes_are_pooled_and_large_ones_are_not():
    scores, classes = drawn([40, 5, 30, 17, 0])
    calibration = MondrianCalibration(5).fit(scores, 0.05, predictions=classes)
    assert calibration.pooled.tolist() == [False, True, False, True, True]
    assert calibration.group_sizes.tolist() == [40, 22, 30, 22, 22]
    pool = scores[(classes == 1) | (classes == 3)]
    p = calibration.p_value(torch.tensor([4.0]), torch.tensor([4]))
    torch.testing.assert_close(p, (1 + (pool <= 4).sum()[None]).double() / 23)


def test_a_pool_that_is_too_small_takes_the_smallest_class_in():
    scores, classes = drawn([40, 3, 25])
    calibration = MondrianCalibration(3).fit(scores, 0.05, predictions=classes)
    assert calibration.members.tolist() == [[True, False, False], [False, True, True], [False, True, True]]


def partition(classes, n_classes):
    """The group of the last input's class, when all before it are the calibration set."""
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


def test_the_threshold_and_the_p_value_agree():
    scores, classes = drawn([50, 30, 7, 4])
    calibration = MondrianCalibration(4).fit(scores, 0.1, predictions=classes)
    x, y = drawn([40, 40, 40, 40], seed=1)
    for alpha in (0.02, 0.1, 0.3):
        accept = calibration.p_value(x, y).double() > alpha + 1e-7
        assert torch.equal(accept, x >= calibration.threshold(alpha)[y])
    assert calibration.threshold(0.001).isneginf().all()


def test_randomised_p_values_by_hand():
    scores = torch.tensor([1.0, 2.0, 2.0, 10.0, 20.0, 20.0])
    calibration = MondrianCalibration(2).fit(scores, 0.5, predictions=torch.tensor([0, 0, 0, 1, 1, 1]))
    x, y = torch.tensor([2.0, 2.0, 20.0, torch.inf, torch.nan]), torch.tensor([0, 1, 1, 0, 1])
    # one below and two equal; none; one below and two equal; three below; none
    expected = torch.tensor([1 + 0.5 * 3, 0.5, 1 + 0.5 * 3, 3.5, 0.5]).double() / 4
    torch.testing.assert_close(calibration.p_value(x, y, uniform=torch.full((5,), 0.5)), expected)
    torch.testing.assert_close(calibration.p_value(x, y, uniform=torch.ones(5)), calibration.p_value(x, y))


def test_it_exports_with_a_dynamic_batch():
    class Judge(torch.nn.Module):
        def __init__(self):
            super().__init__()
            scores, classes = drawn([40, 5, 30, 17])
            self.calibration = MondrianCalibration(4).fit(scores, 0.05, predictions=classes)

        def forward(self, score, logits):
            return self.calibration.p_value(score, logits.argmax(-1))

    judge, batch = Judge(), torch.export.Dim("batch", min=2)
    x, logits = torch.randn(7), torch.randn(7, 4)
    program = torch.export.export(judge, (x, logits), dynamic_shapes=({0: batch}, {0: batch}))
    x, logits = torch.randn(23) + 4, torch.randn(23, 4)
    torch.testing.assert_close(program.module()(x, logits), judge(x, logits))


def test_min_size_pools_more():
    scores, classes = drawn([50, 30, 25])
    assert MondrianCalibration(3).fit(scores, 0.1, predictions=classes).pooled.sum() == 0
    assert MondrianCalibration(3, min_size=40).fit(scores, 0.1, predictions=classes).pooled.tolist() == [0, 1, 1]


def test_its_state_comes_back():
    scores, classes = drawn([40, 5, 30, 17])
    saved = MondrianCalibration(4, min_size=20).fit(scores, 0.1, predictions=classes)
    assert set(saved.state_dict()) == {"scores", "classes", "needed"}
    loaded = MondrianCalibration(4)
    loaded.load_state_dict(saved.state_dict())
    x, y = drawn([9, 9, 9, 9], seed=1)
    torch.testing.assert_close(loaded.p_value(x, y), saved.p_value(x, y))
    torch.testing.assert_close(loaded.threshold(0.1), saved.threshold(0.1))
    assert len(loaded) == len(scores)
    nested = torch.nn.ModuleDict({"calibration": MondrianCalibration(4)})
    nested.load_state_dict({f"calibration.{name}": value for name, value in saved.state_dict().items()})
    assert torch.equal(nested["calibration"].members, saved.members)


def test_bad_arguments_are_refused_in_words():
    scores, classes = drawn([40, 40])
    calibration = MondrianCalibration(2)
    with pytest.raises(NotFittedError, match="no calibration scores yet"):
        calibration.p_value(scores, classes)
    with pytest.raises(ValueError, match=r"needs? at least 99 inputs"):
        calibration.fit(scores, 0.01, predictions=classes)
    with pytest.raises(ValueError, match="1 of 80 are not"):
        calibration.fit(scores.index_fill(0, torch.tensor(3), torch.nan), 0.1, predictions=classes)
    with pytest.raises(ValueError, match="expected one class per score"):
        calibration.fit(scores, 0.1, predictions=classes[1:])
    with pytest.raises(ValueError, match="expected classes 0 to 1; got 1 to 2"):
        calibration.fit(scores, 0.1, predictions=classes + 1)
    calibration.fit(scores, 0.1, predictions=classes)
    with pytest.raises(ValueError, match="expected classes 0 to 1; got -1 to 0"):
        calibration.p_value(scores[:2], torch.tensor([-1, 0]))
    with pytest.raises(ValueError, match="n_classes and min_size: expected at least 1; got 2 and 0"):
        MondrianCalibration(2, min_size=0)


def test_it_says_which_classes_are_pooled():
    calibration = MondrianCalibration(n_classes=4)
    assert repr(calibration) == "MondrianCalibration(4 classes)"
    predictions = torch.tensor([0] * 30 + [1] * 30 + [2] * 12 + [3] * 12)
    calibration.fit(torch.arange(84.0), 0.05, predictions=predictions)
    assert repr(calibration) == (
        "MondrianCalibration(2 of 4 classes are pooled, since one by itself needs 19 calibration inputs: 2, 3)"
    )
    assert MondrianCalibration(2).fit(torch.arange(60.0), 0.05, predictions=predictions[:60]).extra_repr() == (
        "2 classes, each by itself"
    )
