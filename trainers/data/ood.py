"""Out-of-distribution sets, in the shape of the in-distribution images."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import Tensor
from torch.utils.data import Dataset

from trainers.data.conform import as_image, conform
from trainers.data.errors import DataError, DataNotFoundError, MissingSetsError
from trainers.data.images import UNKNOWN_LABEL, ImageShape, LabelledImages, MappedImages, as_image_shape

log = logging.getLogger(__name__)


def build_ood(
    cfg_ood: Mapping[str, Any] | None,
    image_shape: Sequence[int],
    seed: int,
    limit: int | None = None,
    skip_missing: bool = False,
) -> dict[str, LabelledImages]:
    """Make the out-of-distribution sets that a config names.

    Args:
        cfg_ood: for each name a config with ``_target_``. It makes either a dataset of ``(image, label)``,
            whose images may have any size, one or three channels, and be tensors, arrays or PIL images; or,
            with ``_partial_: true``, a function of ``image_shape`` and ``seed`` that makes one.
        image_shape: (C, H, W) of the in-distribution images; every image is converted to it.
        seed: of what is random in a set, and of the choice of ``limit`` images.
        limit: images to keep of each set, chosen at random because folders are sorted; None for all.
        skip_missing: leave out sets that can't be found, with a warning, instead of raising.

    Returns:
        for each name, in order, its images with the label -1.

    Raises:
        ValueError: an entry without ``_target_``, an empty set, or ``limit`` < 1.
        MissingSetsError: sets can't be found; all of them are named.
        DataError: a set can't be read.
    """
    shape = as_image_shape(image_shape)
    if limit is not None and limit < 1:
        raise ValueError(f"limit: expected a number of images >= 1 or null for all; got {limit}")
    sets: dict[str, LabelledImages] = {}
    missing: dict[str, DataNotFoundError] = {}
    for name, cfg in (cfg_ood or {}).items():
        if not isinstance(cfg, Mapping) or "_target_" not in cfg:
            raise ValueError(f"ood.{name}: expected a config with _target_; got {cfg!r}")
    for name, cfg in (cfg_ood or {}).items():
        try:
            sets[str(name)] = _build(name, cfg, shape, seed, limit)
        except DataNotFoundError as error:
            missing[f"ood.{name}"] = error
    if missing and not skip_missing:
        raise MissingSetsError(missing)
    for left_out in missing.items():
        log.warning("left out %s: %s", *left_out)
    return sets


def _build(name: str, cfg: Mapping[str, Any], shape: ImageShape, seed: int, limit: int | None) -> LabelledImages:
    dataset = _made(cfg, shape, seed)
    n = len(dataset)  # type: ignore[arg-type]  # torch's Dataset declares no length
    if n == 0:
        raise ValueError(f"ood.{name}: expected at least one image; got none: leave the set out, or give its images")
    indices = torch.arange(n)
    if limit is not None and limit < n:
        indices = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:limit].sort().values
    targets = torch.full((len(indices),), UNKNOWN_LABEL)
    images = MappedImages(dataset, indices, partial(_to_shape, image_shape=shape), targets, shape)
    if left_out := getattr(dataset, "left_out", None):
        images.left_out = left_out
    return images


def _made(cfg: Mapping[str, Any], shape: ImageShape, seed: int) -> Dataset[Any]:
    try:
        made = instantiate(cfg)
    except InstantiationException as error:  # Hydra hides what the loader said behind its own words
        if isinstance(error.__cause__, DataError):
            raise error.__cause__ from error
        raise
    return made(image_shape=shape, seed=seed) if isinstance(made, partial) else made


def _to_shape(image: object, image_shape: ImageShape) -> Tensor:
    return conform(as_image(image), image_shape)
