import pytest
import torch
from torch import nn

from gmm_torch.detection import FeatureExtractor
from gmm_torch.detection.features import pool
from tests.gmm_torch.detection.conftest import images


def test_the_penultimate_layer_is_the_input_of_the_last_linear_layer_that_runs(net):
    outputs = FeatureExtractor(net)(images(4, 0))
    assert list(outputs.features) == ["head:input"]
    net.eval()
    expected = net.norm(net.conv(images(4, 0))).relu().mean((2, 3))
    torch.testing.assert_close(outputs.features["head:input"], expected)
    torch.testing.assert_close(outputs.logits, net(images(4, 0)))


def test_convolutional_maps_are_pooled_over_space(net):
    outputs = FeatureExtractor(net, ["conv", "head"])(images(4, 0))
    torch.testing.assert_close(outputs.features["conv"], net.conv(images(4, 0)).mean((2, 3)))
    assert outputs.features["head"].shape == (4, 3)


def test_sequences_are_pooled_over_positions():
    tokens = torch.randn(2, 5, 7)
    torch.testing.assert_close(pool(tokens), tokens.mean(1))


def test_the_classifier_runs_in_evaluation_mode_and_gets_its_modes_back(net):
    net.train()
    net.norm.eval()
    extractor = FeatureExtractor(net)
    extractor.train()
    before = net.norm.running_mean.clone()
    first, second = extractor(images(8, 0)), extractor(images(8, 0))
    torch.testing.assert_close(first.logits, second.logits, rtol=0, atol=0)
    torch.testing.assert_close(net.norm.running_mean, before, rtol=0, atol=0)
    assert net.training
    assert net.dropout.training
    assert not net.norm.training


def test_no_hook_outlives_the_forward_pass(net):
    extractor = FeatureExtractor(net, ["conv"])
    extractor(images(2, 0))
    assert all(not module._forward_hooks for module in net.modules())


def test_a_wrong_name_lists_the_names_there_are_and_the_closest(net):
    with pytest.raises(
        ValueError, match=r"no layer 'haed' \(did you mean 'head'\?\); it has: conv, norm, dropout, head"
    ):
        FeatureExtractor(net, ["haed"])


def test_a_string_is_not_taken_for_a_list_of_names(net):
    with pytest.raises(ValueError, match="expected a list of names"):
        FeatureExtractor(net, "head")


def test_a_classifier_without_a_linear_layer_asks_for_names():
    with pytest.raises(ValueError, match="no linear layer"):
        FeatureExtractor(nn.Sequential(nn.Conv2d(1, 3, 6), nn.Flatten()))(images(2, 0))


def test_logits_of_another_rank_are_refused():
    with pytest.raises(ValueError, match=r"expected logits of shape \(N, C\); got \(2, 3, 4, 4\)"):
        FeatureExtractor(nn.Sequential(nn.Conv2d(1, 3, 3)), ["0"])(images(2, 0))


def test_a_layer_that_does_not_run_is_named(net):
    net.spare = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="spare did not run"):
        FeatureExtractor(net, ["spare"])(images(2, 0))
