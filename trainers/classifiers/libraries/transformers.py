"""Networks of transformers: `classifier._target_=transformers.AutoModelForImageClassification.from_pretrained`."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig
from PIL import Image
from torch import nn

from trainers.classifiers.arguments import filled
from trainers.classifiers.libraries.declared import Declared, share_of, synonyms

_STRETCHED = 384  # ConvNeXt's processor crops smaller images only


def arguments(given: Mapping[str, Any], target: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """What is passed of the data: to the configuration that a network is made from, if `config._target_` makes it."""
    config = given.get("config")
    if not isinstance(config, Mapping) or "_target_" not in config:
        return {}
    found = filled(config, get_object(config["_target_"]), values)
    if "num_labels" in values and not config.get("num_labels") and not config.get("id2label"):
        found["num_labels"] = values["num_labels"]
    return {"config": {**config, **found}}


def brings_weights(cfg: DictConfig) -> bool:
    """Whether the network comes trained."""
    return str(cfg["_target_"]).endswith(".from_pretrained")


def declared(cfg: DictConfig) -> Declared | None:
    """What the image processor says that lies beside the weights; None where there is none."""
    name = cfg.get("pretrained_model_name_or_path")
    if not brings_weights(cfg) or name is None:
        return None
    processor = _processor(str(name))
    if processor is None:
        return None
    size, share, keep_ratio = _size_of(processor)
    if size is None:
        return None
    said = processor.do_normalize
    n_channels = len(processor.image_mean)
    return Declared(
        image_shape=[n_channels, *size],
        mean=list(processor.image_mean) if said else [0.0] * n_channels,
        std=list(processor.image_std) if said else [1.0] * n_channels,
        crop_share=share,
        interpolation=Image.Resampling(int(processor.resample)).name.lower(),
        keep_ratio=keep_ratio,
        source=f"the image processor of {name}",
    )


def class_names(cfg: DictConfig) -> list[list[str]] | None:
    """`id2label` of the configuration beside the weights; None where it says no more than LABEL_0, LABEL_1, ..."""
    from transformers import AutoConfig

    name = cfg.get("pretrained_model_name_or_path")
    if name is None:
        return None
    names = dict(AutoConfig.from_pretrained(str(name)).id2label)
    if all(label == f"LABEL_{i}" for i, label in names.items()):
        return None
    return [synonyms(str(names[i])) for i in sorted(names)]


def kind_of_output(network: nn.Module) -> str | None:
    """What a network declares its outputs to be, where they are no logits of classes."""
    kind = getattr(getattr(network, "config", None), "problem_type", None)
    return None if kind == "single_label_classification" else kind


def _size_of(processor: Any) -> tuple[list[int] | None, float, bool]:
    """(height, width), the share of the scaled image that is kept, and whether its ratio is; no size if it has none."""
    scaled, crop = processor.size, getattr(processor, "crop_size", None)
    share = getattr(processor, "crop_pct", None)
    stretched = _entry(scaled, "height")
    side = stretched or _entry(scaled, "shortest_edge")
    if not side:
        return None, 1.0, True
    if getattr(processor, "do_center_crop", False) and crop:
        height, width = _entry(crop, "height"), _entry(crop, "width")
        return [height, width], share_of(height, int(side / (share or 1))), not stretched
    if stretched:
        return [side, _entry(scaled, "width")], 1.0, False
    if share and side < _STRETCHED:
        return [side, side], share_of(side, int(side / share)), True
    return [side, side], 1.0, share is None


def _entry(size: Any, name: str) -> Any:
    """An entry of a size, which is a dictionary or an object."""
    return size.get(name) if isinstance(size, dict) else getattr(size, name, None)


@lru_cache  # a configuration asks for every field, and the hub may be far
def _processor(name: str) -> Any:
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError):  # no file of a processor; a name that does not exist is told when it is built
        return None
