"""Features caught as a classifier runs."""

import pytest
import torch
from torch import nn

from gmm_torch.detector import FeatureExtractor
from gmm_torch.features.hook import FeatureHook


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 3)
        self.norm = nn.BatchNorm2d(5)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


X = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("layer", "names"), [("penultimate", None), ("conv", ["conv"]), ("head:input", ["head:input"])]
)
def test_it_catches_what_the_extractor_extracts(layer, names):
    network = Network().eval()
    expected = FeatureExtractor(network, names)(X)
    with FeatureHook(network, layer) as hook:
        logits = network(X)
        caught = hook.take()
    assert caught.logits is logits
    torch.testing.assert_close(caught.features, next(iter(expected.layers.values()))[:, 0])


def test_a_training_step_is_caught_with_its_gradient_and_left_as_it_is():
    networks = []
    for hooked in (True, False):
        torch.manual_seed(0)
        network = Network()
        hook = FeatureHook(network) if hooked else None
        network(X).sum().backward()
        networks.append(network)
        if hook is not None:
            features = hook.take().features
            assert features.requires_grad
            assert hook.layer == "head:input"
            hook.remove()
    for one, other in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    assert torch.equal(networks[0].norm.running_mean, networks[1].norm.running_mean)


def test_a_batch_that_no_layer_is_found_by_leaves_it_to_the_next():
    network = Network()
    hook = FeatureHook(network)
    with pytest.raises(ValueError, match="got an empty batch"):
        network(X[:0])
    network(X)
    assert hook.take().features.shape == (6, 5)
    hook.remove()
    assert not any(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in network.modules())


def test_nothing_is_taken_twice_nor_after_the_hooks_are_gone():
    network = Network()
    hook = FeatureHook(network, "conv")
    network(X)
    hook.take()
    with pytest.raises(RuntimeError, match="the classifier has not run"):
        hook.take()
    network(X)
    hook.remove()
    with pytest.raises(RuntimeError, match="has not run"):
        hook.take()
    assert not network._forward_hooks
    assert not network.conv._forward_hooks


def test_layers_and_poolings_that_there_are_not_are_refused():
    with pytest.raises(ValueError, match=r"no layer 'cnov'.*did you mean 'conv'"):
        FeatureHook(Network(), "cnov")
    with pytest.raises(ValueError, match="pooling: expected one of"):
        FeatureHook(Network(), pooling="median")
