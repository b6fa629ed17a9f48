import math
import re

import pytest
import torch

from gmm_torch.conformal.class_weights import class_weights
from gmm_torch.conformal.label_shift import LabelShiftCalibration
from gmm_torch.errors import NotFittedError

RIGHT = 0.8  # of the classifier in this world


def world(n, proportions, seed):
    """Predictions and labels (n,) of three classes in these proportions."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(torch.tensor(proportions), n, replacement=True, generator=g)
    wrong = torch.rand(n, generator=g) > RIGHT
    return torch.where(wrong, (labels + 1) % 3, labels), labels


def sample(pair):
    return torch.zeros(len(pair[0]), 1), *pair


OLD, NEW = (0.5, 0.3, 0.2), (0.2, 0.2, 0.6)
TRUE = torch.tensor(NEW).double() / torch.tensor(OLD).double()


def test_the_weights_are_the_ratio_of_the_proportions_and_the_intervals_hold_them():
    predictions, labels = world(5000, OLD, 0)
    deployed, _ = world(5000, NEW, 1)
    found = class_weights(predictions, labels, deployed, 3)
    assert float((found.weights - TRUE).abs().max()) < 0.2
    assert bool(((found.low < TRUE) & (found.high > TRUE)).all())
    error = float(((found.weights - TRUE).abs() * torch.tensor(OLD)).sum() / 2)
    assert error < found.error < 0.1
    same = class_weights(predictions, labels, predictions, 3)
    torch.testing.assert_close(same.weights, torch.ones(3).double())
    fewer = class_weights(predictions[:500], labels[:500], deployed[:500], 3)
    assert fewer.error > found.error
    frequencies = torch.bincount(labels).double() / len(labels)
    assert float(found.weights @ frequencies) == pytest.approx(1)


def test_a_class_that_is_gone_gets_no_weight_and_no_weight_is_below_zero():
    predictions, labels = world(3000, OLD, 0)
    found = class_weights(predictions, labels, world(3000, (0.0, 1.0, 0.0), 1)[0], 3)
    assert bool((found.weights >= 0).all())
    assert float(found.weights[0]) < 0.1


def test_what_no_weights_can_be_learnt_from_is_refused_in_words():
    predictions, labels = world(300, OLD, 0)
    some = labels != 2
    with pytest.raises(ValueError, match=r"some of every class; got none of \[2\]: give more"):
        class_weights(predictions[some], labels[some], predictions, 3)
    with pytest.raises(ValueError, match="predictions that tell the classes apart"):
        class_weights(torch.zeros_like(labels), labels, predictions, 3)
    with pytest.raises(ValueError, match="labels: expected classes 0 to 2; got 1 to 3"):
        class_weights(predictions, labels + 1, predictions, 3)
    with pytest.raises(ValueError, match=r"deployment predictions: expected integers \(n,\), n >= 1; got \(0,\)"):
        class_weights(predictions, labels, predictions[:0], 3)
    with pytest.raises(ValueError, match="expected as many; got 300 and 299"):
        class_weights(predictions, labels[1:], predictions, 3)
    with pytest.raises(ValueError, match="reference inputs: expected labels beside them"):
        LabelShiftCalibration(3).adapt((torch.zeros(300, 1), predictions, None), sample((predictions, None)))


def test_calibration_inputs_weigh_as_their_class_and_new_ones_as_the_heaviest():
    calibration = LabelShiftCalibration(3)
    assert "promises nothing" in repr(calibration)
    with pytest.raises(NotFittedError):
        calibration.log_weights(torch.zeros(3, 1), torch.arange(3))
    calibration.adapt(sample(world(5000, OLD, 0)), sample(world(5000, NEW, 1)))
    assert re.search(r"class cat: 0\.\d+ .*, dog: 0\.\d+ .*, owl: \d", calibration.describe(["cat", "dog", "owl"]))
    plain = "no class has surely another share: try plain calibration first"
    assert plain not in repr(calibration)
    same = LabelShiftCalibration(3).adapt(sample(world(5000, OLD, 0)), sample(world(5000, OLD, 1)))
    assert plain in repr(same)
    with pytest.raises(ValueError, match="class_names: expected 3, one a class; got 2"):
        calibration.describe(["cat", "dog"])
    assert re.search(r"class 0: 0\.\d+ .*, 1: 0\.\d+ .*, 2: \d", repr(calibration))
    labels = torch.arange(3)
    torch.testing.assert_close(calibration.log_weights(torch.zeros(3, 1), labels, labels).exp(), calibration.weights)
    new = calibration.log_weights(torch.zeros(3, 1), labels)
    torch.testing.assert_close(new, torch.full((3,), math.log(calibration.largest_weight)).double())
    with pytest.raises(ValueError, match="labels: expected classes 0 to 2; got 0 to 3"):
        calibration.log_weights(torch.zeros(4, 1), torch.zeros(4).long(), torch.arange(4))
    n = 20
    own = calibration.log_weights(torch.zeros(n, 1), labels[:1].expand(n), labels[:1].expand(n))
    with pytest.raises(ValueError, match=r"needs at least \d\d inputs; got 20"):
        calibration.fit(torch.zeros(n), 0.05, log_weight=own)
