import pytest
import torch

from trainers.classifiers.resnet_cifar import PadShortcut, ResNetCifar


def test_resnet20_has_the_parameters_of_the_paper():
    network = ResNetCifar(20, num_classes=10)
    # table 6 of He et al. 2016: 0.27 million
    assert sum(p.numel() for p in network.parameters()) == 269_722


def test_keys_are_the_published_ones():
    def norm(name):
        return {f"{name}.{key}" for key in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}

    expected = {"conv1.weight", "linear.weight", "linear.bias"} | norm("bn1")
    for stage in (1, 2, 3):
        for block in (0, 1, 2):
            for i in (1, 2):
                expected |= {f"layer{stage}.{block}.conv{i}.weight"} | norm(f"layer{stage}.{block}.bn{i}")
    assert set(ResNetCifar(20, num_classes=10).state_dict()) == expected


@pytest.mark.parametrize(("depth", "blocks"), [(20, 3), (32, 5), (44, 7), (56, 9)])
def test_depth_counts_the_weighted_layers(depth, blocks):
    network = ResNetCifar(depth, num_classes=10)
    weighted = [m for m in network.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    assert len(weighted) == depth
    assert [len(stage) for stage in (network.layer1, network.layer2, network.layer3)] == [blocks] * 3


@pytest.mark.parametrize("depth", [2, 18, 21])
def test_other_depths_are_refused(depth):
    with pytest.raises(ValueError, match=rf"6n \+ 2 .*got {depth}"):
        ResNetCifar(depth, num_classes=10)


def test_shortcut_subsamples_and_pads_without_parameters():
    shortcut = PadShortcut(2, 4, stride=2)
    x = torch.arange(18.0).reshape(1, 2, 3, 3)
    out = shortcut(x)
    assert not list(shortcut.parameters())
    assert out.shape == (1, 4, 2, 2)
    assert not out[:, 0].any()
    assert not out[:, 3].any()
    assert out[0, 1].tolist() == [[0.0, 2.0], [6.0, 8.0]]
    assert out[0, 2].tolist() == [[9.0, 11.0], [15.0, 17.0]]
