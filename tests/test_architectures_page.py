"""The networks of the page on architectures are built and give the detector layers; its tables say what was found."""

import sys

import pytest
import torch

from gmm_torch.detector import FailureDetector
from tests.pages import ROOT

NETWORKS = {
    "resnet20": (3, 32, 32),
    "vit_fashion": (1, 28, 28),
    "bottleneck": (3, 32, 32),
    "vit": (3, 32, 32),
    "convnext": (3, 32, 32),
    "vgg": (3, 32, 32),
    "swin": (3, 32, 32),
    "efficientnet": (3, 32, 32),
    "densenet": (3, 32, 32),
    "wide_resnet": (3, 32, 32),
    "mixer": (3, 32, 32),
    "mixer_fashion": (1, 28, 28),
    "text": (64,),
    "mlp": (16,),
}
INSIDE = ("attn", "mlp", "norm", "patch_embed", "stem", "act", "drop")  # no part of a block that it hands on


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a module of benchmarks/ by name."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield lambda name: __import__(name)
    for name in set(sys.modules) - before:
        if (ROOT / "benchmarks" / f"{name}.py").is_file():
            del sys.modules[name]


def test_every_network_of_the_page_is_tried(benchmark):
    assert NETWORKS.keys() == benchmark("architectures_networks").RECIPES.keys()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_built_from_its_seed_and_gives_the_detector_layers(name, benchmark):
    networks = benchmark("architectures_networks")
    generator = torch.Generator().manual_seed(0)
    classifier, again = networks.build(name), networks.build(name)
    assert all(torch.equal(a, b) for a, b in zip(classifier.parameters(), again.parameters(), strict=True))
    x = torch.rand(4, *NETWORKS[name], generator=generator)
    if name == "text":
        x = (x * networks.N_WORDS).long()

    outputs = FailureDetector(classifier).features([x])

    assert outputs.logits.shape == (4, 1 if x.dim() == 2 else 3, 8 if name == "mlp" else 10)
    assert torch.allclose(outputs.own_logits, classifier(x), atol=1e-4)
    assert outputs.layers
    for layer, value in outputs.layers.items():
        end = layer.removesuffix(":input").rpartition(".")[2]
        assert not end.startswith(INSIDE), layer
        assert value.shape[-1] >= 8, layer
        assert bool(torch.isfinite(value).all()), layer


def test_what_fills_up_a_text_changes_no_prediction(benchmark):
    classifier = benchmark("architectures_networks").build("text")
    x = torch.randint(3, 8000, (2, 64), generator=torch.Generator().manual_seed(0))
    x[:, 40:] = 0
    assert torch.allclose(classifier(x), classifier(x[:, :48]), atol=1e-5)


def test_training_moves_and_mirrors_images_and_leaves_rows_alone(benchmark):
    training = benchmark("architectures_training")
    generator = torch.Generator().manual_seed(0)
    image = torch.zeros(200, 3, 32, 32, dtype=torch.uint8)
    image[:, :, 16, 10] = 255

    moved = training.augmented(image, "cifar10", generator)

    assert moved.shape == image.shape
    assert bool((moved.flatten(1).sum(1, dtype=torch.int64) == 3 * 255).all())
    columns = moved[:, 0].amax(1).argmax(-1)
    assert set(columns.tolist()) == {*range(7, 14), *range(18, 25)}
    rows = torch.rand(3, 64, generator=generator)
    assert training.augmented(rows, "digits", generator) is rows


def result(**areas):
    """Two columns; a method has (errors, pgd), whose minimum and mean follow."""
    rows = []
    for key, (errors, pgd) in areas.items():
        group, method = ("default", key.replace("_", "=")) if key.startswith("views") else ("peer", key)
        found = {"errors": errors, "pgd": pgd, "mean": (errors + pgd) / 2, "min": min(errors, pgd)}
        rows.append({"group": group, "method": method, "auroc": {k: {"mean": v, "std": 0.0} for k, v in found.items()}})
    return {"kind": "ResNet", "data": "cifar10", "columns": ["errors", "pgd"], "rows": rows, "chosen on": False}


def test_a_lead_is_over_the_best_peer_of_each_mean_minimum_and_column(benchmark):
    page = benchmark("architectures_page")
    found = result(views_3=(90.0, 80.0), MaxSoftmax=(92.0, 40.0), KNN=(70.0, 74.0), Odd=(30.0, 81.5))

    (mean, minimum, column, errors), weakest = page.leads(found, page.of(found, "default")["views=3"])

    assert (mean, minimum, column, errors, weakest) == (85 - 72, 80 - 70, -2.0, -2.0, "errors")
    assert (
        page.missed({"a": found})
        == "- ResNet, CIFAR-10, default, three views: errors 90.0 (MaxSoftmax 92.0), pgd 80.0 (Odd 81.5)"
    )
