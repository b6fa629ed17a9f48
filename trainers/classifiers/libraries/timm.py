"""Networks of timm: `classifier._target_=timm.create_model classifier.model_name=resnet18`."""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trainers.classifiers.arguments import taken
from trainers.classifiers.libraries.declared import Declared, share_of, synonyms

N_IMAGENET = 1000  # classes of ImageNet-1k


def arguments(given: Mapping[str, Any], target: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """What is passed of the data: every network takes classes and channels, some the size of the images."""
    import timm

    name = given.get("model_name")
    sized = timm.models.model_entrypoint(name) if name and timm.models.is_model(name) else target
    names = {"num_classes", "in_chans", *({"img_size"} & taken(sized))} & values.keys()
    return {each: values[each] for each in names if given.get(each) is None}


def brings_weights(cfg: DictConfig) -> bool:
    """Whether the network comes trained."""
    return bool(cfg.get("pretrained") or cfg.get("checkpoint_path"))


def declared(cfg: DictConfig) -> Declared | None:
    """timm's data configuration, without the larger size that some networks are tested at."""
    from timm.data import resolve_data_config

    name, own = _own(cfg)
    if not own:
        return None
    found = resolve_data_config(pretrained_cfg=own)
    shape, share, mode = list(found["input_size"]), found["crop_pct"], found["crop_mode"]
    if mode not in ("center", "squash"):  # a border around the image, which no other loader knows
        return None
    return Declared(
        image_shape=shape,
        mean=list(found["mean"]),
        std=list(found["std"]),
        crop_share=share_of(shape[1], math.floor(shape[1] / share)),  # timm rounds the scaled size down
        interpolation=found["interpolation"],
        keep_ratio=mode == "center",
        source=f"timm's pretrained_cfg of {name}",
    )


def class_names(cfg: DictConfig) -> list[list[str]] | None:
    """The classes that the weights were trained on: their own list, or ImageNet's for as many as that has."""
    _, own = _own(cfg)
    names, described = own.get("label_names"), own.get("label_descriptions") or {}
    if names:
        return [[name, *([described[name]] if name in described else [])] for name in names]
    if own.get("num_classes") != N_IMAGENET or own.get("label_offset"):
        return None
    found = _imagenet()
    return None if found is None else [synonyms(found.index_to_description(i)) for i in range(N_IMAGENET)]


def wordnet_ids() -> list[list[str]]:
    """Of each class of ImageNet-1k, in the order of logits; empty lists where timm is not installed."""
    found = _imagenet()
    return [[]] * N_IMAGENET if found is None else [[name] for name in found.label_names()]


def _imagenet() -> Any:
    try:
        from timm.data import ImageNetInfo
    except ImportError:
        return None
    return ImageNetInfo()


def _own(cfg: DictConfig) -> tuple[str, dict[str, Any]]:
    """The name of a network, and timm's configuration of its weights; an empty one where there is none."""
    given: dict[str, Any] = OmegaConf.to_container(cfg)  # type: ignore[assignment]
    name = given.get("model_name") or str(cfg["_target_"]).rpartition(".")[2]
    own = given.get("pretrained_cfg")
    if not isinstance(own, dict):
        own = _pretrained_cfg(name, own)
    return name, own | (given.get("pretrained_cfg_overlay") or {}) if own else {}


@lru_cache
def _pretrained_cfg(name: str, tag: str | None) -> dict[str, Any]:
    """By a network's name, or out of the folder or hub that holds it (`local-dir:...`, `hf-hub:...`)."""
    import timm

    if ":" in name:
        return dict(timm.create_model(name).pretrained_cfg)
    found = timm.models.get_pretrained_cfg(f"{name}.{tag}" if tag else name) if timm.models.is_model(name) else None
    return found.to_dict() if found else {}
