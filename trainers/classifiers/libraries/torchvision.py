"""Networks of torchvision: `classifier._target_=torchvision.models.resnet18 classifier.weights=IMAGENET1K_V1`."""

from collections.abc import Callable, Mapping
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig

from trainers.classifiers.arguments import filled
from trainers.classifiers.libraries.declared import Declared, share_of


def arguments(given: Mapping[str, Any], target: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """What is passed of the data."""
    return filled(given, _builder(given, target), values)


def brings_weights(cfg: DictConfig) -> bool:
    """Whether the network comes trained."""
    return cfg.get("weights") is not None


def declared(cfg: DictConfig) -> Declared | None:
    """The transforms of the weights; None without weights, which alone declare them."""
    weights = _weights(cfg)
    if weights is None:
        return None
    transforms = weights.transforms()
    size, scaled = transforms.crop_size[0], transforms.resize_size[0]
    return Declared(
        image_shape=[len(transforms.mean), size, size],
        mean=list(transforms.mean),
        std=list(transforms.std),
        crop_share=share_of(size, scaled),
        interpolation=transforms.interpolation.value,
        keep_ratio=True,
        source=f"torchvision's transforms of {weights}",
    )


def class_names(cfg: DictConfig) -> list[list[str]] | None:
    """The classes that the weights were trained on, as their description names them."""
    weights = _weights(cfg)
    names = None if weights is None else weights.meta.get("categories")
    return None if names is None else [[name] for name in names]


def _weights(cfg: DictConfig) -> Any:
    """The weights that a configuration names; None where it names none."""
    from torchvision.models import get_model_weights, get_weight

    name = cfg.get("weights")
    if name is None:
        return None
    target = get_object(cfg["_target_"])
    return get_weight(name) if "." in name else get_model_weights(_builder(dict(cfg), target))[name]


def _builder(given: Mapping[str, Any], target: Callable[..., Any]) -> Callable[..., Any]:
    from torchvision.models import get_model, get_model_builder

    return get_model_builder(given["name"]) if target is get_model and given.get("name") else target
