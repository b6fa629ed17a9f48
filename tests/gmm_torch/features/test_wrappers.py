"""A network and the same network wrapped give the same verdicts, layers and files."""

from functools import cache

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from gmm_torch import FailureDetector
from gmm_torch.detector import FeatureExtractor
from gmm_torch.detector.weights import fingerprint
from gmm_torch.features.adapter import submodule
from tests.gmm_torch.conftest import images


def block(channels):
    return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3)
        self.layer1 = nn.Sequential(block(6), block(6))
        self.pool = nn.AvgPool2d(2)
        self.layer2 = nn.Sequential(block(6), block(6), block(6))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.layer2(self.pool(self.layer1(self.stem(x)))).mean((2, 3)))


class Normalised(nn.Module):
    """Takes bytes' range to that of the network within."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network((x - 0.5) / 0.25)


@pytest.fixture(scope="module")
def process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def network():
    torch.manual_seed(0)
    return Net().eval()


def fitted(classifier, x):
    return FailureDetector(classifier, n_components=1).fit(x[:80].split(40)).calibrate(x[80:].split(40))


@cache
def plain_detector():
    return fitted(network(), X)


X = images(160, 3)
NAMES = ["layer1.1:input", "layer1", "layer2.1:input", "layer2.2:input", "layer2"]


def eager(net):
    return torch.compile(net, backend="eager")


def in_place(net):
    net.compile(backend="eager")
    return net


def forward_alone(net):
    net.forward = torch.compile(net.forward, backend="eager")
    return net


WRAPPERS = {
    "data parallel": DataParallel,
    "distributed": DistributedDataParallel,
    "compiled": eager,
    "compiled in place": in_place,
    "compiled forward": forward_alone,
    "compiled and distributed": lambda net: eager(DistributedDataParallel(net)),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_network_has_the_verdicts_layers_and_files_of_the_plain_one(name, process, tmp_path):
    plain, wrapped = network(), WRAPPERS[name](network())
    wrapped(X[:4])  # compiled code is there before the hooks are
    expected, found = plain_detector(), fitted(wrapped, X)
    assert found.extractor.layers == expected.extractor.layers == [name for name in NAMES if ":" not in name]
    for value, other in zip(found(X[:9]), expected(X[:9]), strict=True):
        assert torch.equal(value, other)
    assert fingerprint(wrapped) == fingerprint(plain)
    found.save(tmp_path / "wrapped.safetensors")
    for classifier in (plain, wrapped):
        loaded = FailureDetector.load(tmp_path / "wrapped.safetensors", classifier)
        assert torch.equal(loaded(X[:9]).p_value, expected(X[:9]).p_value)


@pytest.mark.parametrize("wrap", [DataParallel, eager, in_place])
def test_a_wrapper_within_another_module_is_passed_over_as_well(wrap):
    plain, wrapped = Normalised(network()), Normalised(wrap(network()))
    expected, found = (FeatureExtractor(each.eval(), "depths", pooling="moments") for each in (plain, wrapped))
    assert torch.equal(found(X[:5]).logits, expected(X[:5]).logits)
    assert found.layers == expected.layers == [f"network.{name}" for name in NAMES]
    assert all(torch.equal(found(X[:5]).layers[each], expected(X[:5]).layers[each]) for each in found.layers)
    assert fingerprint(wrapped) == fingerprint(plain)
    assert isinstance(submodule(wrapped, "network.layer1.0"), nn.Sequential)


def test_a_module_that_normalises_is_like_inputs_that_are_normal_already():
    expected = FeatureExtractor(network(), "depths")((X[:5] - 0.5) / 0.25)
    found = FeatureExtractor(Normalised(network()), "depths")(X[:5])
    assert all(torch.equal(found.layers[f"network.{name}"], expected.layers[name]) for name in NAMES)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_layers_are_the_same_in_half_precision_and_under_autocast(dtype):
    half = FeatureExtractor(network().to(dtype), "depths")
    found = half(X[:5].to(dtype))
    auto = FeatureExtractor(network(), "depths")
    with torch.autocast("cpu", dtype=dtype):
        under = auto(X[:5])
    expected = FeatureExtractor(network(), "depths")(X[:5])
    assert half.layers == auto.layers == NAMES
    for name in NAMES:
        for value in (found.layers[name], under.layers[name]):
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, expected.layers[name], rtol=0.05, atol=0.05)


def test_a_network_and_images_whose_channels_come_last_in_memory_are_judged_alike():
    detector = fitted(network(), X)
    turned = fitted(network().to(memory_format=torch.channels_last), X.contiguous(memory_format=torch.channels_last))
    assert turned.extractor.layers == detector.extractor.layers
    torch.testing.assert_close(turned(X[:20]).p_value, detector(X[:20]).p_value, rtol=0, atol=0.03)


def test_modes_and_what_is_frozen_are_as_they_were():
    net = network().train()
    net.layer1.eval()
    net.stem.requires_grad_(False)
    before = [(module.training) for module in net.modules()], [each.requires_grad for each in net.parameters()]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    fitted(net, X)(X[:3])
    assert before == ([module.training for module in net.modules()], [each.requires_grad for each in net.parameters()])
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(not each._forward_hooks and not each._forward_pre_hooks for each in net.modules())
