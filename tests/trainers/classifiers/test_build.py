from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from tests.configuration import files_read_once
from trainers.classifiers.build import build_classifier
from trainers.classifiers.checkpoint import CheckpointError, save_weights

CONF = Path(__file__).parents[3] / "conf"
NAMES = sorted(path.stem for path in (CONF / "classifier").glob("[!_]*.yaml"))
SMALL = {
    "_target_": "trainers.classifiers.small_cnn.SmallCNN",
    "width": 8,
    "num_classes": None,
    "in_channels": None,
    "normalize": {"mean": [0.3], "std": [0.4]},
}


def _compose(name, channels, *overrides):
    statistics = [f"+data.mean={[0.5] * channels}", f"+data.std={[0.2] * channels}"]
    with initialize_config_dir(str(CONF), version_base=None), files_read_once():
        return compose(overrides=[f"+classifier={name}", *statistics, *overrides]).classifier


@contextmanager
def weights_left_zero():
    """Within, no weights are drawn, which of a large network takes most of the time."""
    with pytest.MonkeyPatch.context() as patched:
        for name in ("kaiming_normal_", "kaiming_uniform_", "uniform_", "normal_", "trunc_normal_"):
            patched.setattr(nn.init, name, lambda tensor, *_, **__: tensor.zero_())
        yield


@pytest.mark.parametrize("name", [name for name in NAMES if name != "custom"])
@pytest.mark.parametrize("image_shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28)])
def test_every_config_maps_images_to_logits(name, image_shape):
    with torch.no_grad(), weights_left_zero():
        classifier = build_classifier(_compose(name, image_shape[0]), 7, image_shape).eval()
        assert classifier(torch.rand(3, *image_shape)).shape == (3, 7)
    assert list(dict(classifier.named_children())) == ["normalize", "network"]


@pytest.mark.parametrize("name", ["small_cnn", "lenet", "resnet20"])
def test_odd_sizes_and_channels_are_possible(name):
    classifier = build_classifier(_compose(name, 5), 2, (5, 11, 9)).eval()
    assert classifier(torch.rand(2, 5, 11, 9)).shape == (2, 2)


def test_a_network_of_the_users_own():
    cfg = _compose("custom", 1, "classifier._target_=torch.nn.Flatten", "classifier.normalize=null")
    assert torch.equal(build_classifier(cfg, 16, (1, 4, 4))(torch.ones(2, 1, 4, 4)), torch.ones(2, 16))


@pytest.mark.parametrize("name", ["custom", "small_cnn"])
def test_arguments_from_the_data_are_left_out_where_a_network_has_none(name):
    cfg = _compose(name, 1, "classifier._target_=torch.nn.Flatten", "classifier.normalize=null")
    assert build_classifier(cfg, 16, (1, 4, 4))(torch.ones(2, 1, 4, 4)).shape == (2, 16)


def test_a_missing_target_says_how_to_give_one():
    with pytest.raises(ValueError, match=r"classifier\._target_=package\.module\.Class"):
        build_classifier(_compose("custom", 1), 10, (1, 8, 8))


def test_normalisation_comes_from_the_data():
    normalize = build_classifier(_compose("small_cnn", 3), 10, (3, 8, 8)).normalize
    torch.testing.assert_close(normalize.mean.flatten(), torch.full((3,), 0.5))
    torch.testing.assert_close(normalize.std.flatten(), torch.full((3,), 0.2))


def test_half_a_normalisation_is_refused():
    with pytest.raises(ValueError, match="both mean and std"):
        build_classifier(SMALL | {"normalize": {"mean": [0.3], "std": None}}, 10, (1, 8, 8))


def test_a_wrong_number_of_logits_is_refused():
    with pytest.raises(ValueError, match=r"logits \(N, 10\).*got \(2, 4\)"):
        build_classifier(SMALL | {"num_classes": 4}, 10, (1, 8, 8))


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"expected one that takes images of shape \(N, 1, 8, 8\); got an error"):
        build_classifier(SMALL | {"in_channels": 2}, 10, (1, 8, 8))


def test_a_target_that_is_no_network_is_refused():
    with pytest.raises(ValueError, match=r"expected what gives a torch\.nn\.Module; got one that gives Fraction"):
        build_classifier({"_target_": "fractions.Fraction"}, 10, (1, 8, 8))


def test_an_unknown_target_is_refused():
    with pytest.raises(ValueError, match=r"cannot build the classifier torch\.nn\.Nothing"):
        build_classifier({"_target_": "torch.nn.Nothing"}, 10, (1, 8, 8))


@pytest.mark.parametrize("part", ["network", "whole"])
def test_a_checkpoint_of_the_network_or_of_the_whole_classifier_is_loaded(tmp_path, part):
    classifier = build_classifier(SMALL, 10, (1, 8, 8))
    nn.init.constant_(classifier.network.linear.weight, 2.0)
    save_weights(classifier if part == "whole" else classifier.network, tmp_path / "c.safetensors")
    cfg = SMALL | {"checkpoint": str(tmp_path / "c.safetensors"), "normalize": {"mean": [0.1], "std": [0.2]}}
    loaded = build_classifier(cfg, 10, (1, 8, 8))
    assert (loaded.network.linear.weight == 2.0).all()
    # the normalisation belongs to the weights, so it comes along where it was saved
    assert loaded.normalize.mean.item() == pytest.approx(0.3 if part == "whole" else 0.1)


def largest_singular_value(matrix):
    """By the smaller of its two products with itself, in a tenth of the time of all its singular values."""
    product = matrix @ matrix.T if len(matrix) < matrix.shape[1] else matrix.T @ matrix
    return torch.linalg.eigvalsh(product)[-1].sqrt().item()


@pytest.mark.parametrize("name", ["small_cnn", "lenet", "resnet20", "torchvision_resnet18"])
def test_spectral_norm_bounds_every_layer_and_survives_a_checkpoint(name, tmp_path):
    cfg = _compose(name, 3, "classifier.spectral_norm=true")
    torch.manual_seed(0)
    classifier = build_classifier(cfg, 10, (3, 32, 32))
    images = torch.rand(4, 3, 32, 32)
    for _ in range(10):  # each is a power iteration
        classifier.train()(images)
    layers = [module for module in classifier.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    norms = [largest_singular_value(layer.weight.detach().flatten(1).double()) for layer in layers]
    assert len(layers) >= 5
    assert norms == pytest.approx([1.0] * len(layers), abs=0.05)
    save_weights(classifier, tmp_path / "c.safetensors")
    cfg.checkpoint = str(tmp_path / "c.safetensors")
    loaded = build_classifier(cfg, 10, (3, 32, 32)).eval()
    assert torch.equal(loaded(images), classifier.eval()(images))


def test_spectral_norm_is_off_unless_asked_for_and_needs_layers(tmp_path):
    plain = build_classifier(SMALL, 10, (1, 8, 8))
    assert not any("parametrizations" in key for key in plain.state_dict())
    save_weights(plain, tmp_path / "c.safetensors")
    with pytest.raises(CheckpointError, match="parametrizations"):
        build_classifier(SMALL | {"spectral_norm": True, "checkpoint": str(tmp_path / "c.safetensors")}, 10, (1, 8, 8))
    with pytest.raises(ValueError, match="a convolution or a linear layer; got Flatten without: leave"):
        build_classifier({"_target_": "torch.nn.Flatten", "spectral_norm": True}, 64, (1, 8, 8))


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    save_weights(build_classifier(SMALL, 10, (1, 8, 8)).network, tmp_path / "c.safetensors")
    cfg = SMALL | {"checkpoint": str(tmp_path / "c.safetensors"), "width": 16}
    with pytest.raises(CheckpointError, match=r"SmallCNN.*of another shape.*by classifier=.*classifier\._target_="):
        build_classifier(cfg, 10, (1, 8, 8))
