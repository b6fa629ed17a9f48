"""What people get wrong when they call a detector: one error that says what to do, or what they meant."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from gmm_torch import FailureDetector
from gmm_torch.scores.labelled_combined import LabelledCombined
from tests.gmm_torch.conftest import TinyNet, batches, images


def labels(n):
    return torch.arange(n) % 3


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return FailureDetector(TinyNet(), n_components=2).fit(batches(200, 1)).calibrate(batches(100, 2))


def test_a_batch_with_labels_is_judged_and_explained_as_its_inputs(detector):
    x = images(9, 3)
    expected = detector(x)
    for batch in ((x, labels(9)), [x, labels(9)]):
        assert torch.equal(detector(batch).p_value, expected.p_value)
        assert [each.p_value for each in detector.explain(batch)] == expected.p_value.tolist()
        assert torch.equal(detector.margin(batch), detector.margin(x))


def test_what_is_no_loader_is_said_to_be_none():
    detector, x = FailureDetector(TinyNet()), images(40, 1)
    with pytest.raises(ValueError, match=r"got one batch \(x, label\): give \[\(x, label\)\]"):
        detector.fit((x, labels(40)))
    with pytest.raises(TypeError, match=r"got the data set TensorDataset: give DataLoader"):
        detector.fit(TensorDataset(x, labels(40)))


def test_names_in_place_of_objects_are_refused_with_what_makes_them():
    with pytest.raises(
        TypeError,
        match=r"score: expected an object; got 'mean_log_probability': give make_score\('mean_log_probability'\)",
    ):
        FailureDetector(TinyNet(), score="mean_log_probability")
    with pytest.raises(TypeError, match=r"calibration: expected an object; got 'mondrian'"):
        FailureDetector(TinyNet(), calibration="mondrian")
    with pytest.raises(TypeError, match=r"layers: expected names; got 4 of int"):
        FailureDetector(TinyNet(), layers=[4])


def test_a_linear_layer_alone_is_told_to_be_wrapped():
    x = torch.randn(120, 6)
    with pytest.raises(ValueError, match=r"one linear layer.*nn.Sequential\(classifier\)"):
        FailureDetector(nn.Linear(6, 3)).fit(x.split(40))
    FailureDetector(nn.Sequential(nn.Linear(6, 3)), n_components=1).fit(x[:80].split(40)).calibrate([x[80:]])


def test_a_fit_that_failed_on_other_inputs_does_not_change_the_views():
    torch.manual_seed(0)
    detector = FailureDetector(TinyNet(), n_components=2)
    with pytest.raises(ValueError, match=r"of torch\.uint8"):
        detector.fit([torch.randint(255, (9, 1, 6, 6), dtype=torch.uint8)])
    assert detector.fit(batches(100, 1)).extractor.views == ("identity", "mirror", "blur")


def test_labels_are_not_looked_at_when_fitting_and_are_asked_for_when_calibrating():
    torch.manual_seed(0)
    detector = FailureDetector(TinyNet(), score=LabelledCombined(n_components=2))
    x = images(200, 1)
    detector.fit([(x, torch.full((200,), -1))])
    for n in (19, 40):
        with pytest.raises(ValueError, match=r"got inputs without: give batches \(x, label, ...\)"):
            detector.calibrate([images(n, 2)])
    with pytest.raises(ValueError, match=r"got list: give torch.as_tensor"):
        detector.calibrate([(images(40, 2), labels(40).tolist())])


@pytest.mark.parametrize(
    ("batch", "mended"),
    [
        ((images(9, 1) * 255).byte(), r"give floating point, x.float\(\) / 255"),
        (images(9, 1).double(), r"give x.to\(torch.float32\)"),
        (images(9, 1).permute(0, 2, 3, 1), r"give x.permute\(0, 3, 1, 2\)"),
        (images(9, 1).expand(9, 3, 6, 6)[0], r"give x\[None\]"),
        ((labels(9), images(9, 1)), r"these look like labels, .*: give batches \(x, label\)"),
    ],
)
def test_inputs_of_another_kind_are_told_with_what_mends_them(batch, mended):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=rf"inputs: expected what the classifier takes; got \(.*: {mended}"):
        FailureDetector(TinyNet(), views=1).fit([batch])


@pytest.mark.parametrize("given", ["net.pt", {}, nn.Linear, lambda x: x])
def test_a_classifier_is_a_network(given, tmp_path, detector):
    with pytest.raises(TypeError, match=r"classifier: expected a network, an nn.Module; got"):
        FailureDetector(given)
    with pytest.raises(TypeError, match=r"classifier: expected a network, an nn.Module; got"):
        FailureDetector.load(tmp_path / "d.safetensors", given)
    with pytest.raises(TypeError, match=r"got a FailureDetector around one: give detector.classifier"):
        FailureDetector(detector)
    with pytest.raises(TypeError, match=r"path: .*got a TinyNet: give \(path, classifier\)"):
        FailureDetector.load(TinyNet(), tmp_path / "d.safetensors")


def test_a_network_without_layers_is_told_so():
    with pytest.raises(ValueError, match="no penultimate features: give the whole network"):
        FailureDetector(nn.Identity()).fit([torch.rand(60, 3)])


def test_the_inputs_of_the_fit_are_not_calibrated_on():
    torch.manual_seed(0)
    detector = FailureDetector(TinyNet(), n_components=2).fit(batches(200, 1))
    for again in (batches(200, 1), batches(200, 1)[1:2]):
        with pytest.raises(ValueError, match=r"others than the detector was fitted to; got \d+, and it was"):
            detector.calibrate(again)
    assert len(detector.calibrate([*batches(100, 2), *batches(64, 1)[:1]]).calibration)  # a few may be equal
    with pytest.raises(TypeError, match=r"loader: expected batches .*got NoneType: give a DataLoader"):
        detector.fit(None)


class Ending(nn.Module):
    def __init__(self, net, ending):
        super().__init__()
        self.net, self.ending = net, ending

    def forward(self, x):
        return self.ending(self.net(x))


@pytest.mark.parametrize("ending", [nn.Softmax(-1), nn.Sigmoid(), lambda z: z.softmax(-1)])
def test_probabilities_are_not_taken_for_logits(net, ending):
    for layers in (None, ["net.conv"]):
        with pytest.raises(ValueError, match="expected logits; got probabilities: leave its last softmax out"):
            FailureDetector(Ending(net, ending), layers=layers).fit(batches(100, 1))


def test_log_probabilities_are_logits(net):
    new, made = images(40, 3), []
    for classifier in (net, Ending(net, nn.LogSoftmax(-1))):
        made.append(FailureDetector(classifier, n_components=2).fit(batches(200, 1)).calibrate(batches(100, 2)))
    assert torch.allclose(made[0](new).p_value, made[1](new).p_value, atol=0.02)
