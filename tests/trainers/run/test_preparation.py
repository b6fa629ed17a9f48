"""A fit says from which size to which images are brought, whose moments normalise them, and what changes both."""

import pytest
from omegaconf import OmegaConf

from tests.configuration import configure
from trainers.run.preparation import preparation_in_words

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
HALVES = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
NEITHER = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
OWN = ("data=image_folder", "data.root=x", "classifier._target_=their_pkg.MyNet")


def said(fitted, *overrides):
    cfg = configure(*overrides)
    OmegaConf.resolve(cfg)
    return preparation_in_words(cfg, fitted, tuple(cfg.data.image_shape))


def test_photographs_that_are_scaled_and_normalised_as_nobody_asked_for_are_told_with_every_key():
    assert said(IMAGENET | {"file_size": "128 x 128"}, *OWN) == (
        "128 x 128 pixels, brought to 32 x 32 (data.image_shape; data.source: crop_share=1, interpolation=bilinear, "
        "keep_ratio=True); normalised by mean [0.485, 0.456, 0.406] and std [0.229, 0.224, 0.225], those of ImageNet "
        "(data.mean, data.std)"
    )


@pytest.mark.parametrize(
    ("size", "share", "expected"),
    [
        ({}, 1, "of several sizes, brought to 32 x 32 (data.image_shape; "),
        ({"file_size": "32 x 32"}, 1, "32 x 32 pixels, not scaled (data.image_shape); "),
        ({"file_size": "32 x 32"}, 0.875, "32 x 32 pixels, brought to 32 x 32 (data.image_shape; data.source: crop"),
    ],
)  # fmt: skip
def test_of_files_it_is_known_whether_they_have_one_size(size, share, expected):
    assert said(IMAGENET | size, *OWN, f"data.source.crop_share={share}").startswith(expected)


@pytest.mark.parametrize(
    ("moments", "overrides", "expected"),
    [
        (HALVES, ["data.mean=[0.5,0.5,0.5]", "data.std=[0.25,0.25,0.25]"], ", as configured (data.mean, data.std)"),
        (HALVES, [], ", which the classifier's checkpoint brings (data.mean, data.std)"),
        (NEITHER, ["data.mean=null", "data.std=null"], "; values in [0, 1], not normalised (data.mean, data.std)"),
        (NEITHER, ["classifier.normalize=null"], "; values in [0, 1], not normalised (classifier.normalize)"),
    ],
)
def test_whose_the_moments_are(moments, overrides, expected):
    assert said(moments | {"file_size": "32 x 32"}, *OWN, *overrides).endswith(expected)


def test_a_network_with_moments_of_its_own_names_its_own_keys():
    found = said(IMAGENET, "data=cifar10", "classifier=torchvision_resnet18")
    assert found.startswith("32 x 32 pixels, not scaled (data.image_shape); ")
    assert found.endswith("those of ImageNet (classifier.normalize.mean, classifier.normalize.std)")


def test_what_a_library_declares_is_named():
    pytest.importorskip("timm")
    network = ("classifier._target_=timm.create_model", "classifier.model_name=vit_tiny_patch16_224")
    found = said({"mean": [0.5] * 3, "std": [0.5] * 3}, *OWN[:2], *network)
    assert found.startswith("of several sizes, brought to 224 x 224 (")
    assert "], from timm's pretrained_cfg of vit_tiny_patch16_224 (data.mean, data.std)" in found
