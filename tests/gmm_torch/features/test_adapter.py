"""Batches and outputs of a kind of their own, and arrays of NumPy."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from gmm_torch import Adapter, FailureDetector
from gmm_torch.evaluation.detection import evaluate
from gmm_torch.scores import make_score
from tests.configuration import configure
from trainers.classifiers.build import build_classifier


class TwoTowers(nn.Module):
    """Takes an image and a table, returns features, an object with what it calls scores, and a loss."""

    def __init__(self):
        super().__init__()
        self.image, self.table, self.head = nn.Linear(12, 8), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, image, table):
        features = (self.image(image.flatten(1)) + self.table(table)).relu()
        return features, SimpleNamespace(scores=self.head(features)), None


class Plain(nn.Module):
    """The same network for one input."""

    def __init__(self, towers):
        super().__init__()
        self.towers = towers

    def forward(self, x):
        return self.towers(x[:, :12].unflatten(1, (3, 2, 2)), x[:, 12:])[1].scores


ADAPTER = Adapter(
    inputs=lambda batch: (batch["image"], batch["meta"]["table"]),
    logits=lambda output: output[1].scores,
    labels=lambda batch: batch["target"],
)


def rows(n, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 16, generator=generator), torch.randint(0, 3, (n,), generator=generator)


def batches(n, seed, size=50):
    return [
        {"image": x[:, :12].unflatten(1, (3, 2, 2)), "meta": {"table": x[:, 12:], "id": ["a"] * len(x)}, "target": y}
        for x, y in zip(*(each.split(size) for each in rows(n, seed)), strict=True)
    ]


@pytest.fixture(scope="module")
def towers():
    torch.manual_seed(0)
    return TwoTowers().eval()


def made(network, fitting, calibration, **options):
    score = make_score("log_likelihood", n_components=2)
    return FailureDetector(network, score=score, views=1, alpha=0.1, **options).fit(fitting).calibrate(calibration)


@pytest.mark.parametrize("layers", [["head:input"], "penultimate"])
def test_an_adapter_gives_the_verdicts_of_a_network_of_plain_inputs(towers, layers, tmp_path):
    detector = made(towers, batches(200, 1), batches(100, 2), adapter=ADAPTER, layers=layers)
    named = [f"towers.{name}" for name in layers] if isinstance(layers, list) else layers
    plain = made(Plain(towers), rows(200, 1)[0].split(50), rows(100, 2)[0].split(50), layers=named)
    (batch,) = batches(40, 3, 40)
    x, y = rows(40, 3)
    torch.testing.assert_close(detector(batch).p_value, plain(x).p_value, rtol=0, atol=0.02)  # a rank of 66 may differ
    torch.testing.assert_close(detector(batch).logits, plain(x).logits)
    assert evaluate(detector, [batch])["accuracy"] == evaluate(plain, [(x, y)])["accuracy"]
    detector.save(tmp_path / "d.safetensors")
    again = FailureDetector.load(tmp_path / "d.safetensors", towers, adapter=ADAPTER)
    assert torch.equal(again(batch).p_value, detector(batch).p_value)
    assert not towers._forward_hooks  # the network is as it was
    assert isinstance(towers(batch["image"], batch["meta"]["table"]), tuple)


def test_without_an_adapter_such_batches_are_refused(towers):
    with pytest.raises(TypeError, match=r"inputs: expected tensors .* for 'meta': .* with adapter="):
        FailureDetector(towers, views=1).fit(batches(100, 1))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_arrays_are_tensors(kind):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    loaders = [[(x.numpy().astype(kind), y.numpy()) for x, y in [rows(n, seed)]] for n, seed in ((200, 1), (100, 2))]
    detector = made(net, *loaders)
    plain = made(net, *([(torch.from_numpy(x).float(), torch.from_numpy(y)) for x, y in each] for each in loaders))
    x, y = rows(30, 3)
    assert torch.equal(detector(x.numpy().astype(kind)).p_value, plain(x).p_value)
    assert evaluate(detector, [(x.numpy().astype(kind), y.numpy())]) == evaluate(plain, [(x, y)])
    with pytest.raises(ValueError, match=r"loader: expected batches .* got one tensor \(30, 16\)"):
        detector.fit(x.numpy())
    with pytest.raises(TypeError, match="inputs: expected a tensor"):
        detector(np.array(["a", "b"]))


class OfMapping(nn.Module):
    """Takes images by a name of its own, and gives logits under one."""

    def __init__(self, n_out):
        super().__init__()
        self.head = nn.Linear(12, n_out)

    def forward(self, picture):
        return {"answer": self.head(picture.flatten(1))}


def of_mapping() -> Adapter:
    return Adapter(inputs=lambda x: {"picture": x}, logits=lambda output: output["answer"])


def one_logit() -> Adapter:
    return Adapter(inputs=lambda x: {"picture": x}, logits=lambda output: nn.functional.pad(output["answer"], (1, 0)))


@pytest.mark.parametrize(("adapter", "n_out", "n_classes"), [("of_mapping", 3, 3), ("one_logit", 1, 2)])
def test_an_adapter_of_the_command_line(adapter, n_out, n_classes):
    network = [f"classifier._target_={__name__}.OfMapping", f"classifier.n_out={n_out}", "classifier.normalize=null"]
    cfg = configure(*network, f"classifier.adapter._target_={__name__}.{adapter}").classifier
    classifier = build_classifier(cfg, n_classes, (3, 2, 2)).eval()
    x = torch.rand(5, 3, 2, 2)
    expected = classifier.network.head(classifier.normalize(x).flatten(1))
    torch.testing.assert_close(classifier(x)[:, -n_out:], expected)  # of one logit the second class is it
    assert classifier(x).shape == (5, n_classes)
    with pytest.raises(ValueError, match="classifier"):
        build_classifier(configure(*network).classifier, n_classes, (3, 2, 2))
