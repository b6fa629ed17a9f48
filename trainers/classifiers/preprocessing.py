"""The preprocessing and the classes that a model's own library declares for it."""

from types import ModuleType

from omegaconf import DictConfig, OmegaConf

from trainers.classifiers.libraries import timm, torchvision, transformers
from trainers.classifiers.libraries.declared import Declared

LIBRARIES: dict[str, ModuleType] = {"timm": timm, "torchvision": torchvision, "transformers": transformers}

# Where a configuration uses what is declared.
_USES = {
    "image_shape": "data.image_shape",
    "mean": "classifier.normalize.mean",
    "std": "classifier.normalize.std",
    "crop_share": "data.source.crop_share",
    "interpolation": "data.source.interpolation",
    "keep_ratio": "data.source.keep_ratio",
}


def library_of(cfg: DictConfig) -> ModuleType | None:
    """The module of `libraries` that knows the network of a node `classifier`; None for any other network."""
    if "_target_" not in cfg or OmegaConf.is_missing(cfg, "_target_"):
        return None
    return LIBRARIES.get(str(cfg["_target_"]).partition(".")[0])


def declared(cfg: DictConfig) -> Declared | None:
    """What its library declares for the network of a node `classifier`; None where it declares nothing.

    Raises:
        ValueError: the network's configuration names weights that the library does not know.
    """
    library = library_of(cfg)
    try:
        return None if library is None else library.declared(cfg)
    except (ImportError, KeyError) as error:
        raise ValueError(f"cannot find the preprocessing of the classifier {cfg['_target_']}: {error!r}") from error


def brings_weights(cfg: DictConfig) -> bool:
    """Whether the network of a node `classifier` comes trained, with the head that it was trained with."""
    library = library_of(cfg)
    own_head = cfg.get("num_classes") is None and cfg.get("num_labels") is None
    return library is not None and own_head and library.brings_weights(cfg)


def known_classes(cfg: DictConfig) -> list[list[str]] | None:
    """Of each class that the network of a node `classifier` was trained on, the names that it goes by.

    Those of ImageNet-1k also go by their WordNet ids, `n01440764`, where timm, which has them, is installed.

    Returns:
        in the order of the logits; None where its library does not know them, or the weights are another file's.
    """
    library = library_of(cfg)
    if library is None or cfg.get("checkpoint") is not None or not brings_weights(cfg):
        return None
    names: list[list[str]] | None = library.class_names(cfg)
    if names is not None and len(names) == timm.N_IMAGENET and "tench" in names[0]:
        names = [[*own, *ids] for own, ids in zip(names, timm.wordnet_ids(), strict=True)]
    return names


def describe(cfg: DictConfig) -> str | None:
    """What a run of a whole configuration takes from the model's library, and what else it has been told, if any."""
    found = declared(cfg.classifier)
    if found is None:
        return None
    taken, other = [], []
    for field, place in _USES.items():
        said, used = getattr(found, field), OmegaConf.select(cfg, place)
        if isinstance(used, DictConfig) or OmegaConf.is_list(used):
            used = OmegaConf.to_container(used)
        if used == said:
            taken.append(f"{place}={said}")
        elif used is not None:
            other.append(f"{place}={used} (declared: {said})")
    parts = [f"from {found.source}: {', '.join(taken)}"] if taken else []
    if other:
        parts.append(f"from the configuration, not from {found.source}: {', '.join(other)}")
    return "; ".join(parts)
