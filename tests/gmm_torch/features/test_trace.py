"""What does not follow the inputs is no layer; blocks that run several times are; and what is said where nothing is."""

import pytest
import torch
from torch import nn

from gmm_torch import FailureDetector
from gmm_torch.detector import FeatureExtractor
from gmm_torch.features.trace import rows_follow, trace

X = torch.rand(6, 5, 8, generator=torch.Generator().manual_seed(0))


def encoder(batch_first, layers=3):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False).eval()


class Sequence(nn.Module):
    """(N, T, C) to logits, with time as the first axis within, if it is told so."""

    def __init__(self, batch_first):
        super().__init__()
        self.batch_first, self.encoder, self.head = batch_first, encoder(batch_first), nn.Linear(8, 3)

    def forward(self, x):
        hidden = self.encoder(x if self.batch_first else x.transpose(0, 1))
        return self.head(hidden.mean(1 if self.batch_first else 0))


@pytest.mark.parametrize("length", [3, 5])  # three inputs are traced: time may look like the batch
def test_a_layer_whose_first_axis_is_time_is_never_taken(length):
    x = X[:, :length]
    first = FeatureExtractor(Sequence(True).eval(), "depths")
    first(x)
    assert first.layers == [f"encoder.layers.{i}" for i in (0, 1, 2)]
    for rule in ("depths", "stages", "penultimate"):
        found = FeatureExtractor(Sequence(False).eval(), rule)
        found(x)
        assert found.layers == ["head:input"]


class Sorting(nn.Module):
    """Sorts a batch, as recurrent networks like it, and brings it back in order, or not."""

    def __init__(self, back):
        super().__init__()
        self.back = back
        self.within = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        order = x.sum((1, 2)).argsort()
        hidden = self.within(x[order].mean(1))
        return self.head(hidden[order.argsort()] if self.back else hidden)


def test_what_runs_in_another_order_of_the_batch_is_never_taken():
    torch.manual_seed(0)
    ran = [step.name for step in trace(Sorting(True).eval(), X)]
    assert ran == ["head"]


def test_logits_in_another_order_than_the_inputs_are_refused():
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"expected logits \(N, C\) in the order of the inputs; got \(3, 3\) in"):
        FailureDetector(Sorting(False).eval(), n_components=1).fit([X])


def test_rows_that_are_alike_or_a_little_noisy_follow():
    rows = torch.randn(3, 10)
    moved = rows[[1, 2, 0]]
    assert rows_follow(rows, moved)
    assert rows_follow(rows, moved + 0.1 * torch.randn(3, 10))
    assert rows_follow(torch.ones(3, 4), torch.ones(3, 4))
    assert not rows_follow(rows, rows)
    assert not rows_follow(rows, torch.ones(3, 4))


class Repeated(nn.Module):
    """One block that runs five times, or on the input and its opposite, of which neither leads to the other."""

    def __init__(self, chained):
        super().__init__()
        self.chained = chained
        self.block, self.head = nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, 3)

    def forward(self, x):
        if self.chained:
            for _ in range(5):
                x = self.block(x)
        else:
            x = self.block(x) - self.block(-x)
        return self.head(x.mean(1))


class Chained(Repeated):
    def __init__(self):
        super().__init__(True)
        self.block = encoder(True, 1).layers[0]


def test_each_run_of_a_block_that_takes_what_it_gave_is_a_block(tmp_path):
    net = Chained().eval()
    detector = FailureDetector(net, n_components=1)
    x = torch.randn(160, 4, 8)
    detector.fit([x[:80]]).calibrate([x[80:]])
    assert detector.extractor.layers == [f"block@{i}" for i in ("2", "3", "5:input", "5")]
    assert "a block runs several times" in detector.extractor.found_by
    detector.save(tmp_path / "d.safetensors")
    loaded = FailureDetector.load(tmp_path / "d.safetensors", net)
    assert torch.equal(loaded(x[:7]).score, detector(x[:7]).score)
    hidden = x[:7]
    found = FeatureExtractor(net, [f"block@{i}" for i in range(1, 6)] + ["block@4:input"])(x[:7]).layers
    for i in range(1, 6):
        hidden = net.block(hidden)
        torch.testing.assert_close(found[f"block@{i}"][:, 0], hidden.mean(1))
    assert torch.equal(found["block@4:input"], found["block@3"])


def test_a_module_that_runs_on_several_things_stands_for_no_place():
    found = FeatureExtractor(Repeated(False).eval(), "depths")
    found(X)
    assert found.layers == ["head:input"]


def test_a_run_that_there_is_not_is_told():
    with pytest.raises(ValueError, match="block@9 did not run"):
        FeatureExtractor(Chained().eval(), ["block@9"])(X)


class Attending(nn.Module):
    """Maps are found in it nowhere but in attention."""

    def __init__(self):
        super().__init__()
        self.weights, self.norm, self.head = nn.Softmax(-1), nn.LayerNorm(4), nn.Linear(8, 3)
        self.attention = SelfAttention()

    def forward(self, x):
        heads = x.unflatten(2, (2, 4)).transpose(1, 2)
        x = x + (self.weights(heads @ heads.mT) @ heads).transpose(1, 2).flatten(2)
        return self.head((x + self.attention(x)).mean(1))


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)

    def forward(self, x):
        return self.norm(x.unflatten(2, (2, 4)).transpose(1, 2)).transpose(1, 2).flatten(2)


def test_no_part_of_attention_is_taken_for_a_map():
    found = FeatureExtractor(Attending().eval(), "depths")
    found(X)
    assert found.layers == ["head:input"]


class Folded(nn.Module):
    """Every linear layer has windows for inputs."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1)


def test_where_no_layer_keeps_the_batch_the_layer_and_its_shape_are_named():
    with pytest.raises(
        ValueError, match=r"no linear layer that gives a row an input.*'head' gives \(15, 3\) for 3 inp"
    ):
        FeatureExtractor(Folded().eval(), "depths")(X)
    with pytest.raises(ValueError, match=r"'head': expected one row for each of 6 inputs; got shape \(30, 3\)"):
        FeatureExtractor(Folded().eval(), ["head"])(X)


def test_layers_are_not_looked_for_with_an_empty_batch():
    with pytest.raises(ValueError, match="expected at least one input"):
        FeatureExtractor(Chained().eval(), "depths")(X[:0])


@pytest.mark.parametrize("output", [None, (torch.ones(6, 3), 1), torch.ones(6, 3).long(), {"scores": torch.ones(6, 3)}])
def test_logits_of_no_known_form_are_one_error(output):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            self.head(x.mean(1))
            return output

    with pytest.raises(ValueError, match=r"classifier: expected logits of shape \(N, C\)"):
        FailureDetector(Net()).fit([X])


def test_logits_may_be_an_attribute():
    class Output:
        def __init__(self, logits):
            self.logits = logits

    class Net(Sequence):
        def forward(self, x):
            return Output(super().forward(x))

    torch.manual_seed(0)
    net = Net(True).eval()
    assert torch.equal(FeatureExtractor(net)(X).own_logits, net(X).logits)
