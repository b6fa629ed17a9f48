"""From a config to a classifier that takes images in [0, 1]."""

import inspect
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from trainers.classifiers.checkpoint import common_prefix, load_weights, read_weights
from trainers.classifiers.normalize import Normalize
from trainers.classifiers.spectral import normalise_spectra

_RESERVED = ("checkpoint", "normalize", "spectral_norm")


def build_classifier(cfg: DictConfig | Mapping[str, Any], num_classes: int, image_shape: Sequence[int]) -> nn.Module:
    """Build a classifier with its normalisation inside, and load its checkpoint.

    Args:
        cfg: `_target_` and keyword arguments of the network, and three keys of its own: `checkpoint` (a path or
            null), `normalize` (`mean` and `std`, one value per channel; null for none) and `spectral_norm` (whether to
            `normalise_spectra`; a checkpoint must have been trained like that). Arguments named
            `num_classes`, `in_channels` or `image_size` that are null are filled in from the data, or left out where
            the network has no such argument. A
            checkpoint that `trainers.classifiers.checkpoint.save_weights` wrote of a whole classifier brings
            its normalisation along.
        num_classes: number of classes C of the data.
        image_shape: shape (channels, height, width) of the data's images.

    Returns:
        `nn.Sequential` of `normalize` and `network`: images (N, channels, height, width) in [0, 1] to logits
        (N, C).

    Raises:
        FileNotFoundError: if there is no file at `checkpoint`.
        ValueError: if the network cannot be built, does not take such images, or gives other than C logits;
            if the checkpoint does not fit it (`CheckpointError`).
    """
    if not isinstance(cfg, DictConfig):
        cfg = OmegaConf.create(dict(cfg))
    if num_classes < 2:
        raise ValueError(
            f"expected at least two classes; got {num_classes}: name the classes that the network tells apart"
        )
    if OmegaConf.is_missing(cfg, "_target_") or "_target_" not in cfg:
        raise ValueError(
            "the classifier config needs the import path of a network: classifier._target_=package.module.Class"
        )
    network = _network(cfg, num_classes, image_shape)
    if cfg.get("spectral_norm", False):
        normalise_spectra(network)
    classifier = nn.Sequential(OrderedDict(normalize=_normalize(cfg.get("normalize"), image_shape[0]), network=network))
    _check_logits(classifier, cfg["_target_"], num_classes, image_shape)
    if cfg.get("checkpoint") is not None:
        _load(classifier, cfg["checkpoint"])
    return classifier


def _network(cfg: DictConfig, num_classes: int, image_shape: Sequence[int]) -> nn.Module:
    from_data = {
        "num_classes": num_classes,
        "in_channels": image_shape[0],
        "image_size": list(image_shape[1:]),
    }
    empty = {key: value for key, value in from_data.items() if key in cfg and cfg[key] is None}
    arguments = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in (*_RESERVED, *empty)])
    try:
        taken = _parameters(get_object(cfg["_target_"]))
        network = instantiate(arguments, **{key: empty[key] for key in empty if taken is None or key in taken})
    except (ImportError, InstantiationException) as error:
        raise ValueError(f"cannot build the classifier {cfg['_target_']}: {error}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"classifier._target_={cfg['_target_']} must give a torch.nn.Module, it gave {type(network).__name__}"
        )
    return network


def _parameters(target: Any) -> set[str] | None:
    """Names of the arguments that a callable takes; None where it takes any, or does not say."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return None
    return None if any(p.kind is p.VAR_KEYWORD for p in parameters) else {p.name for p in parameters}


def _normalize(cfg: DictConfig | None, channels: int) -> Normalize:
    cfg = cfg or OmegaConf.create()
    mean, std = cfg.get("mean"), cfg.get("std")
    if mean is None and std is None:
        return Normalize([0.0] * channels, [1.0] * channels)
    if mean is None or std is None:
        raise ValueError(f"classifier.normalize needs both mean and std or neither, got mean={mean}, std={std}")
    return Normalize(mean, std)


def _check_logits(classifier: nn.Module, target: str, num_classes: int, image_shape: Sequence[int]) -> None:
    was_training = classifier.training
    classifier.eval()
    try:
        with torch.no_grad():
            logits = classifier(torch.zeros(2, *image_shape))
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            f"the classifier {target} does not take images of shape (N, {', '.join(map(str, image_shape))}): {error}"
        ) from error
    finally:
        classifier.train(was_training)
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, num_classes):
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        remedy = "check classifier.num_classes"
        if shape in ((2,), (2, 1)):
            remedy = (
                "one logit z of a sigmoid stands for the two logits (0, z): let the network return "
                "torch.stack([torch.zeros_like(z), z], dim=1) of z with shape (N,)"
            )
        raise ValueError(
            f"the classifier {target} must give logits (N, {num_classes}) for {num_classes} classes, "
            f"for N = 2 it gave {shape}; {remedy}"
        )


def _load(classifier: nn.Module, path: str) -> None:
    state = read_weights(path)
    prefix = common_prefix(state, classifier.state_dict())
    whole = f"{prefix}normalize.mean" in state and any(key.startswith(f"{prefix}network.") for key in state)
    load_weights(classifier if whole else classifier.get_submodule("network"), state, path)
