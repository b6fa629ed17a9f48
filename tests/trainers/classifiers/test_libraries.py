"""Networks of timm, torchvision and transformers as their users name them, with the preprocessing that they declare."""

import dataclasses

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image, ImageDraw
from torch import nn

from tests.configuration import configure
from trainers.classifiers.arguments import filled, from_data
from trainers.classifiers.build import build_classifier
from trainers.classifiers.preprocessing import brings_weights, declared, describe
from trainers.data.image_files import decode
from trainers.data.pixels import as_unit
from trainers.data.resize import Resize
from trainers.run.requirements import require_weights

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")
transformers = pytest.importorskip("transformers")

FOLDER = ("data=image_folder", "data.root=x")
RESNET = "{_target_:transformers.ResNetConfig,embedding_size:8,hidden_sizes:[8],depths:[1],layer_type:basic}"
FROM_PRETRAINED = "classifier._target_=transformers.AutoModelForImageClassification.from_pretrained"


def small_resnet(**options):
    return transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", num_labels=3, **options
    )


def resolved(*overrides):
    cfg = configure(*FOLDER, *overrides)
    OmegaConf.resolve(cfg)
    return cfg


@pytest.mark.parametrize(
    "overrides",
    [
        ["classifier._target_=timm.create_model", "classifier.model_name=test_resnet", "classifier.pretrained=false"],
        ["classifier._target_=timm.create_model", "classifier.model_name=test_vit"],  # takes the images' size
        ["classifier._target_=torchvision.models.squeezenet1_1"],
        ["classifier._target_=torchvision.models.get_model", "classifier.name=mobilenet_v3_small"],
        [
            "classifier._target_=transformers.AutoModelForImageClassification.from_config",
            f"classifier.config={RESNET}",
        ],
        ["classifier._target_=transformers.ResNetForImageClassification", f"classifier.config={RESNET}"],
    ],
    ids=lambda overrides: "-".join(each.rpartition("=")[2][-20:] for each in overrides[:2]),
)
def test_builders_take_what_they_know_under_their_own_names(overrides):
    cfg = resolved("data.image_shape=[3,64,64]", *overrides)
    classifier = build_classifier(cfg.classifier, 5, (3, 64, 64)).eval()
    assert classifier(torch.rand(2, 3, 64, 64)).shape == (2, 5)


class Named(nn.Module):
    def __init__(self, n_classes, in_chans=3, img_size=8):
        super().__init__()
        self.given = (n_classes, in_chans, img_size)


class Derived(Named):
    def __init__(self, depth=1, **options):
        super().__init__(**options)


def annotated(**options) -> Derived:
    return Derived(**options)


def unknown(**options):
    return options


@pytest.mark.parametrize("target", [Named, Derived, annotated])
def test_names_are_found_where_any_are_taken(target):
    values = from_data(7, 1, 4, 6)
    assert filled({}, target, values) == {"n_classes": 7, "in_chans": 1, "img_size": [4, 6]}
    assert filled({"in_chans": 2, "img_size": None}, target, values) == {"n_classes": 7, "img_size": [4, 6]}
    assert from_data(7, 1, 6, 6)["image_size"] == 6
    assert filled({"num_classes": None}, unknown, values) == {"num_classes": 7}
    assert filled({}, unknown, values) == {}


def test_timm_says_how_its_images_are_prepared(caplog):
    overrides = ["classifier._target_=timm.create_model", "classifier.model_name=vit_tiny_patch16_224"]
    cfg = resolved(*overrides)
    source = cfg.data.source
    assert cfg.data.image_shape == source.image_shape == [3, 224, 224]
    assert cfg.classifier.normalize == {"mean": [0.5] * 3, "std": [0.5] * 3}
    assert (source.crop_share, source.interpolation, source.keep_ratio) == (224 / 248, "bicubic", True)
    said = describe(cfg)
    assert said.startswith("from timm's pretrained_cfg of vit_tiny_patch16_224: data.image_shape=[3, 224, 224], ")
    set_here = resolved(*overrides, "data.image_shape=[3,32,32]", "data.mean=[0.1,0.2,0.3]")
    assert set_here.data.image_shape == [3, 32, 32]
    assert set_here.classifier.normalize.mean == [0.1, 0.2, 0.3]
    said = describe(set_here)
    assert "not from timm's pretrained_cfg of vit_tiny_patch16_224: data.image_shape=[3, 32, 32] (decl" in said
    overlay = resolved(*overrides, "classifier.pretrained_cfg_overlay={crop_mode:squash,crop_pct:1.0}")
    assert not overlay.data.source.keep_ratio
    assert overlay.data.source.crop_share == 1


def test_an_image_is_prepared_as_by_timm(tmp_path):
    image = Image.linear_gradient("L").resize((300, 260)).convert("RGB")
    ImageDraw.Draw(image).ellipse((60, 50, 200, 180), fill=(200, 90, 30))
    image.save(tmp_path / "image.png")
    network = timm.create_model("vit_tiny_patch16_224")
    cfg = resolved("classifier._target_=timm.create_model", "classifier.model_name=vit_tiny_patch16_224")
    source = cfg.data.source
    resize = Resize(source.crop_share, source.interpolation, source.keep_ratio)
    classifier = build_classifier(cfg.classifier, 5, (3, 224, 224))
    found = classifier.normalize(as_unit(decode(str(tmp_path / "image.png"), (3, 224, 224), resize))[None])[0]
    expected = timm.data.create_transform(**timm.data.resolve_data_config(model=network))(image)
    assert (found - expected).abs().mean() < 0.01  # of [-1, 1]: both crop at the centre, to half a pixel
    assert found.shape == expected.shape


def test_torchvision_says_so_where_weights_are_named():
    cfg = resolved("classifier._target_=torchvision.models.efficientnet_b0", "classifier.weights=IMAGENET1K_V1")
    source = cfg.data.source
    assert cfg.data.image_shape == [3, 224, 224]
    assert (source.crop_share, source.interpolation) == (0.875, "bicubic")
    assert "EfficientNet_B0_Weights.IMAGENET1K_V1" in describe(cfg)
    plain = resolved("classifier._target_=torchvision.models.efficientnet_b0")
    assert plain.data.image_shape == [3, 32, 32]
    assert describe(plain) is None
    with pytest.raises(ValueError, match="NONE"):
        resolved("classifier._target_=torchvision.models.resnet18", "classifier.weights=NONE")


def test_a_folder_of_transformers_brings_weights_and_preprocessing(tmp_path):
    network = transformers.ResNetForImageClassification(small_resnet()).eval()
    network.save_pretrained(tmp_path)
    network.save_pretrained(tmp_path / "alone")
    overrides = [FROM_PRETRAINED, f"classifier.pretrained_model_name_or_path={tmp_path}"]
    assert describe(resolved(FROM_PRETRAINED, f"{overrides[1]}/alone")) is None  # no processor beside it
    transformers.ConvNextImageProcessor(size={"shortest_edge": 48}, crop_pct=0.75).save_pretrained(tmp_path)
    cfg = resolved(*overrides)
    source = cfg.data.source
    assert cfg.data.image_shape == [3, 48, 48]
    assert (source.crop_share, source.interpolation, source.keep_ratio) == (0.75, "bicubic", True)
    require_weights(cfg, "task=fit needs a trained classifier")
    classifier = build_classifier(cfg.classifier, 3, (3, 48, 48)).eval()
    images = torch.rand(2, 3, 48, 48)
    expected = network(classifier.normalize(images)).logits
    torch.testing.assert_close(classifier(images), expected)
    with pytest.raises(
        ValueError, match=r"expected logits \(N, 4\), for 4 classes of the data; got \(2, 3\) for N = 2: set"
    ):
        build_classifier(cfg.classifier, 4, (3, 48, 48))


@pytest.mark.parametrize(
    ("processor", "shape", "share", "keep_ratio"),
    [
        ("ViTImageProcessor", [3, 224, 224], 1.0, False),
        ("CLIPImageProcessor", [3, 224, 224], 1.0, True),
        ("ConvNextImageProcessor", [3, 384, 384], 1.0, False),  # stretched from this size on
    ],
)
def test_processors_of_transformers_are_read(tmp_path, processor, shape, share, keep_ratio):
    getattr(transformers, processor)().save_pretrained(tmp_path)
    small_resnet().save_pretrained(tmp_path)
    cfg = configure(FROM_PRETRAINED, f"classifier.pretrained_model_name_or_path={tmp_path}")
    found = declared(cfg.classifier)
    assert (found.image_shape, found.crop_share, found.keep_ratio) == (shape, share, keep_ratio)


def test_weights_are_needed_unless_the_network_brings_them():
    pretrained = [
        "classifier._target_=timm.create_model",
        "classifier.model_name=resnet18",
        "classifier.pretrained=true",
    ]
    assert brings_weights(configure(*pretrained).classifier)
    for untrained in ([], pretrained[:2], [*pretrained, "classifier.num_classes=3"]):  # a new head is not trained
        with pytest.raises(ValueError, match=r"set classifier\.checkpoint="):
            require_weights(configure(*untrained), "task=fit needs a trained classifier")
    require_weights(configure("training=none"), "task=fit needs a trained classifier")


def test_several_labels_are_refused():
    config = RESNET.replace("}", ",problem_type:multi_label_classification}")
    target = "classifier._target_=transformers.AutoModelForImageClassification.from_config"
    cfg = resolved(target, f"classifier.config={config}")
    with pytest.raises(ValueError, match="declares itself multi_label_classification; a verdict is about one class"):
        build_classifier(cfg.classifier, 3, (3, 32, 32))


class Squashed(nn.Module):
    def __init__(self, last: str) -> None:
        super().__init__()
        self.linear = nn.Linear(48, 3)
        self.last = nn.Sigmoid() if last == "sigmoid" else nn.Softmax(dim=1)

    def forward(self, x):
        return self.last(self.linear(x.flatten(1)))


@pytest.mark.parametrize("last", ["sigmoid", "softmax"])
def test_probabilities_are_no_logits(last):
    cfg = {"_target_": f"{__name__}.Squashed", "last": last}
    with pytest.raises(ValueError, match="expected logits; got probabilities: leave its last softmax out"):
        build_classifier(cfg, 3, (3, 4, 4))


def test_a_layer_of_probabilities_within_is_no_matter():
    gate = {"_target_": "torchvision.ops.SqueezeExcitation", "input_channels": 3, "squeeze_channels": 1}
    network = {"_target_": "torch.nn.Sequential", "_args_": [gate, {"_target_": "torch.nn.Flatten"}]}
    assert build_classifier(network, 12, (3, 2, 2))(torch.rand(2, 3, 2, 2)).shape == (2, 12)


@pytest.mark.parametrize("name", ["box", "bicubic"])
def test_resizing_covers_or_stretches(name):
    image = Image.linear_gradient("L").resize((40, 20))
    assert Resize(0.5, name)(image, 8, 8).size == Resize(0.5, name, keep_ratio=False)(image, 8, 8).size == (8, 8)
    bar = Image.new("L", (40, 20))
    bar.paste(255, (0, 0, 10, 20))  # a quarter at the left: cropped away, or squeezed
    assert Resize(1.0, name)(bar, 20, 20).getextrema() == (0, 0)
    assert Resize(1.0, name, keep_ratio=False)(bar, 20, 20).getpixel((2, 10)) == 255
    assert dataclasses.astuple(Resize(0.5, name)) == (0.5, name, True)
    with pytest.raises(ValueError, match="interpolation: expected one of nearest"):
        Resize(1.0, "cubic")
    with pytest.raises(ValueError, match="crop_share: expected a share"):
        Resize(0.0)
