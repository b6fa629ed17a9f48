"""Class folders and the classes of a trained model: by name, whatever the order."""

import pytest
import torch
from PIL import Image

from tests.configuration import configure
from trainers.classifiers.preprocessing import known_classes
from trainers.data.class_names import label_by_name
from trainers.data.errors import DataError
from trainers.data.images import ImageArray
from trainers.run.run import Run

FROM_PRETRAINED = "classifier._target_=transformers.AutoModelForImageClassification.from_pretrained"
TIMM = ("classifier._target_=timm.create_model", "classifier.model_name=resnet18", "classifier.pretrained=true")
TORCHVISION = ("classifier._target_=torchvision.models.resnet18", "classifier.weights=IMAGENET1K_V1")
CLASSES = [["cat"], ["guinea pig", "Cavia cobaya", "guinea pig, Cavia cobaya"], ["owl"], ["crane"], ["crane"]]


def images(*names: str) -> ImageArray:
    targets = torch.arange(2 * len(names)) % len(names)
    return ImageArray(torch.zeros(len(targets), 1, 2, 2, dtype=torch.uint8), targets, names)


def folder(root, *names: str) -> str:
    for name in names:
        for i in range(30):
            place = root / "images" / name
            place.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (8 * i, len(name), 0)).save(place / f"{i}.png")
    return f"data.root={root / 'images'}"


def test_labels_are_the_model_s():
    found = label_by_name(images("Cavia_cobaya", "OWL", "cat"), CLASSES)
    assert found.targets.tolist() == [1, 2, 0, 1, 2, 0]
    assert found.class_names == ["cat", "Cavia_cobaya", "OWL", "crane", "crane"]


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (
            ("cat", "hamster"),
            r"5 classes of the model \(cat, .*got 'hamster', which none of them is called: .*label_by=o",
        ),
        (("cat", "crane"), "got 'crane', which 2 of them are called"),
        (("guinea pig", "cavia-cobaya"), "expected one for a class of the model; got guinea pig and cavia-cobaya for"),
    ],
)
def test_names_that_do_not_fit_are_told(names, match):
    with pytest.raises(DataError, match=match):
        label_by_name(images(*names), CLASSES)


def test_a_folder_of_images_is_judged_by_the_model_s_names(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}
    labels = {0: "owl", 1: "dog", 2: "cat, house cat"}
    config = transformers.ResNetConfig(**sizes, id2label=labels, label2id={name: i for i, name in labels.items()})
    network = transformers.ResNetForImageClassification(config)
    network.save_pretrained(tmp_path / "model")
    model = (FROM_PRETRAINED, f"classifier.pretrained_model_name_or_path={tmp_path / 'model'}", "data=image_folder")
    run = Run(configure(*model, folder(tmp_path, "house_cat", "owl")), tmp_path)
    assert run.data.class_names == ["owl", "dog", "house_cat"]
    assert set(run.data.training_images.targets.tolist()) == set(run.data.test_images.targets.tolist()) == {0, 2}
    x = torch.rand(2, 3, 32, 32)
    expected = network.eval()(run.classifier.normalize(x)).logits  # as many logits as it was trained for
    torch.testing.assert_close(run.classifier.eval()(x), expected)
    by_order = Run(configure(*model, folder(tmp_path), "data.label_by=order"), tmp_path)
    assert by_order.data.class_names == ["house_cat", "owl"]
    (tmp_path / "images" / "owl").rename(tmp_path / "images" / "eagle")
    with pytest.raises(DataError, match="got 'eagle', which none of them is called"):
        _ = Run(configure(*model, folder(tmp_path)), tmp_path).data.class_names


def test_names_are_known_of_weights_that_have_them(tmp_path):
    timm = pytest.importorskip("timm")
    ids = timm.data.ImageNetInfo().label_names()
    for model in (TIMM, TORCHVISION):
        names = known_classes(configure(*model).classifier)
        assert len(names) == 1000
        assert ("tench" in names[0], "n01440764" in names[0], "kite" in names[21]) == (True, True, True)
        found = label_by_name(images(ids[999], ids[7]), names)
        assert found.targets.tolist() == [999, 7, 999, 7]
    own = "classifier.pretrained_cfg_overlay={num_classes:2,label_names:[b,a],label_descriptions:{a:apple}}"
    assert known_classes(configure(*TIMM, own).classifier) == [["b"], ["a", "apple"]]


def test_where_no_names_are_known_the_order_counts(tmp_path):
    transformers = pytest.importorskip("transformers")
    transformers.ResNetConfig(num_labels=3).save_pretrained(tmp_path)
    unnamed = configure(FROM_PRETRAINED, f"classifier.pretrained_model_name_or_path={tmp_path}").classifier
    own_weights = configure(*TORCHVISION, "classifier.checkpoint=mine.pt").classifier
    for cfg in (unnamed, own_weights, configure(*TIMM[:2]).classifier, configure().classifier):
        assert known_classes(cfg) is None
    run = Run(configure("data=image_folder", folder(tmp_path, "b", "a")), tmp_path)
    assert run.data.class_names == ["a", "b"]
