import re

import pytest
import torch

from gmm_torch.conformal.calibration import Unlabelled
from gmm_torch.conformal.label_shift import LabelShiftCalibration, class_weights

OLD, NEW = (0.5, 0.3, 0.2), (0.2, 0.2, 0.6)
TRUE = torch.tensor(NEW).double() / torch.tensor(OLD).double()


def world(n, proportions, seed):
    """Predictions, right with probability 0.8, and labels (n,) of three classes in these proportions."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(torch.tensor(proportions), n, replacement=True, generator=g)
    wrong = torch.rand(n, generator=g) > 0.8
    return torch.where(wrong, (labels + 1) % 3, labels), labels


def sample(predictions):
    return Unlabelled(torch.zeros(len(predictions), 1), predictions)


def test_the_weights_are_the_ratio_of_the_proportions_and_the_intervals_hold_them():
    predictions, labels = world(5000, OLD, 0)
    deployed, _ = world(5000, NEW, 1)
    found = class_weights(predictions, labels, deployed, 3)
    assert float((found.weights - TRUE).abs().max()) < 0.2
    assert bool(((found.low < TRUE) & (found.high > TRUE)).all())
    assert float(((found.weights - TRUE).abs() * torch.tensor(OLD)).sum() / 2) < found.error < 0.1
    assert class_weights(predictions[:500], labels[:500], deployed[:500], 3).error > found.error
    assert float(found.weights @ (torch.bincount(labels).double() / len(labels))) == pytest.approx(1)
    torch.testing.assert_close(class_weights(predictions, labels, predictions, 3).weights, torch.ones(3).double())
    gone = class_weights(predictions, labels, world(3000, (0.0, 1.0, 0.0), 1)[0], 3)
    assert bool((gone.weights >= 0).all())
    assert float(gone.weights[0]) < 0.1


def test_bad_samples_are_refused():
    predictions, labels = world(300, OLD, 0)
    some = labels != 2
    for given, name in (
        ((predictions[some], labels[some], predictions), "reference inputs"),
        ((torch.zeros_like(labels), labels, predictions), "classifier"),
        ((predictions, labels + 1, predictions), "labels"),
        ((predictions, labels, predictions[:0]), "deployment predictions"),
    ):
        with pytest.raises(ValueError, match=f"{name}: expected"):
            class_weights(*given, 3)
    with pytest.raises(ValueError, match="reference inputs: expected labels"):
        LabelShiftCalibration(3).adapt(sample(predictions), sample(predictions))


def test_calibration_inputs_weigh_as_their_class_and_new_ones_as_the_heaviest():
    (reference, known), (deployed, _) = world(5000, OLD, 0), world(5000, NEW, 1)
    calibration = LabelShiftCalibration(3).adapt(sample(reference), sample(deployed), labels=known)
    assert re.search(r"class cat: 0\.\d+ .*, dog: 0\.\d+ .*, owl: \d", calibration.describe(["cat", "dog", "owl"]))
    labels = torch.arange(3)
    torch.testing.assert_close(calibration.log_weights(sample(labels), labels).exp(), calibration.weights)
    assert torch.equal(calibration.log_weights(sample(labels)).exp(), calibration.weights.max().expand(3).log().exp())
    with pytest.raises(ValueError, match="class_names: expected 3"):
        calibration.describe(["cat", "dog"])
    with pytest.raises(ValueError, match="labels: expected classes 0 to 2"):
        calibration.log_weights(sample(torch.zeros(4).long()), torch.arange(4))
    plain = "try plain calibration first"
    same = LabelShiftCalibration(3).adapt(sample(reference), sample(world(5000, OLD, 1)[0]), labels=known)
    assert [plain in repr(each) for each in (calibration, same)] == [False, True]
    broken = same.state_dict() | {"weights": torch.full((3,), torch.nan).double()}
    with pytest.raises(ValueError, match="the state is damaged"):
        same.fresh().load_state_dict(broken)
