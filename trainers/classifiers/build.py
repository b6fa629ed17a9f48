"""From a config to a classifier that takes images in [0, 1]."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from gmm_torch.features.adapter import NONE, logits_of, watched
from gmm_torch.features.modes import evaluating
from gmm_torch.features.normalized import Normalize, NormalizedClassifier
from trainers.classifiers.arguments import ALL_NAMES, NUM_CLASSES, filled, from_data
from trainers.classifiers.checkpoint import common_prefix, load_weights, read_weights
from trainers.classifiers.libraries import transformers
from trainers.classifiers.preprocessing import brings_weights, library_of
from trainers.classifiers.spectral import normalise_spectra

_RESERVED = ("adapter", "checkpoint", "weights_key", "normalize", "spectral_norm")
_ONE_CLASS = (
    "a verdict is about one class for each image, so a network of several labels, or of a number, has none: expected a "
    "logit for each of the classes, of which one is right"
)


def build_classifier(cfg: DictConfig | Mapping[str, Any], num_classes: int, image_shape: Sequence[int]) -> nn.Module:
    """Build a classifier with its normalisation inside, and load its checkpoint.

    Args:
        cfg: `_target_` and keyword arguments of the network, and five keys of its own: `adapter` (a `_target_` that
            gives an `Adapter`, or null), `checkpoint` (a path or null), `weights_key` (which weights of a checkpoint
            that has several), `normalize` (`mean` and `std`, one value per channel; null for none) and `spectral_norm`
            (whether to `normalise_spectra`; a checkpoint must have been trained like that). Number of classes, channels
            and size of the images are passed under the names that the network has for them
            (`trainers.classifiers.arguments`), unless they are set. A checkpoint that `save_weights` wrote of a whole
            classifier brings its normalisation along.
        num_classes: C, of the data.
        image_shape: (channels, height, width) of the data's images.

    Returns:
        `NormalizedClassifier` of `normalize` and `network`.

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
            "classifier._target_: expected the import path of a network; got none: set "
            "classifier._target_=package.module.Class"
        )
    normalize = _normalize(cfg.get("normalize"), image_shape[0])
    network = _network(cfg, num_classes, len(normalize.mean), image_shape)
    if cfg.get("spectral_norm", False):
        normalise_spectra(network)
    adapter = NONE if cfg.get("adapter") is None else instantiate(cfg["adapter"])
    classifier = NormalizedClassifier(OrderedDict(normalize=normalize, network=network), adapter)
    _check_logits(classifier, cfg["_target_"], num_classes, image_shape)
    if cfg.get("checkpoint") is not None:
        _load(classifier, cfg["checkpoint"], cfg.get("weights_key"))
    return classifier


def _network(cfg: DictConfig, num_classes: int, n_channels: int, image_shape: Sequence[int]) -> nn.Module:
    values = from_data(num_classes, n_channels, *image_shape[1:])
    if brings_weights(cfg) and cfg.get("checkpoint") is None:  # another number of classes would be a head untrained
        values = {name: value for name, value in values.items() if name not in NUM_CLASSES}
    own = [str(key) for key in cfg if key not in _RESERVED]
    arguments: dict[str, Any] = OmegaConf.to_container(OmegaConf.masked_copy(cfg, own), resolve=True)  # type: ignore[assignment]
    library = library_of(cfg)
    try:
        fill = filled if library is None else library.arguments
        added = fill(arguments, get_object(cfg["_target_"]), values)
        given = {name: value for name, value in arguments.items() if value is not None or name not in ALL_NAMES}
        network = instantiate({"_convert_": "all"} | given | added)
    except (ImportError, InstantiationException) as error:
        raise ValueError(f"cannot build the classifier {cfg['_target_']}: {error}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"classifier._target_={cfg['_target_']}: expected what gives a torch.nn.Module; got one that gives "
            f"{type(network).__name__}: name the network's class, or a function that makes one"
        )
    if library is transformers and (kind := transformers.kind_of_output(network)) is not None:
        raise ValueError(f"the classifier {cfg['_target_']} declares itself {kind}; {_ONE_CLASS}")
    return network


def _normalize(cfg: DictConfig | None, channels: int) -> Normalize:
    cfg = cfg or OmegaConf.create()
    mean, std = cfg.get("mean"), cfg.get("std")
    if mean is None and std is None:
        return Normalize([0.0] * channels, [1.0] * channels)
    if mean is None or std is None:
        raise ValueError(
            f"classifier.normalize: expected both mean and std, or neither; got mean={mean}, std={std}: set the other, "
            "or leave both out"
        )
    return Normalize(mean, std)


def _check_logits(classifier: NormalizedClassifier, target: str, num_classes: int, image_shape: Sequence[int]) -> None:
    """Raise unless a network maps images to as many logits as there are classes."""
    try:
        with evaluating(classifier), torch.no_grad(), watched(classifier) as check:
            output = classifier.output(torch.zeros(2, *image_shape))
    except (RuntimeError, ValueError, TypeError) as error:
        shape = ", ".join(map(str, image_shape))
        raise ValueError(
            f"the classifier {target}: expected one that takes images of shape (N, {shape}); "
            f"got an error ({error}): set data.image_shape=[channels,height,width] to the shape that it takes"
        ) from error
    try:
        logits = logits_of(output)
    except ValueError as error:
        raise ValueError(f"the classifier {target}: {error}") from error
    if logits.shape != (2, num_classes):
        raise ValueError(
            f"the classifier {target}: expected logits (N, {num_classes}), for {num_classes} classes of the data; got "
            f"{tuple(logits.shape)} for N = 2: set classifier.num_classes, or the argument by which the network knows "
            "it; a trained one answers those classes alone that it was trained on, in their order"
        )
    check(logits)


def _load(classifier: nn.Module, path: str, key: str | None) -> None:
    state = read_weights(path, key)
    prefix = common_prefix(state, classifier.state_dict())
    whole = f"{prefix}normalize.mean" in state and any(key.startswith(f"{prefix}network.") for key in state)
    load_weights(classifier if whole else classifier.get_submodule("network"), state, path)
