"""The data module: one dataset, five disjoint splits, five loaders."""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset, Subset

from trainers.data.augmentation import Augmentation
from trainers.data.class_names import label_by_name
from trainers.data.duplicates import duplicates
from trainers.data.epochs import EpochSampler, LateLoader
from trainers.data.errors import DataError
from trainers.data.images import ImageShape, LabelledImages, MappedImages, as_image_shape, content_digest
from trainers.data.splits import balanced_subset, check_disjoint, split_indices
from trainers.data.unlabelled import Unlabelled

log = logging.getLogger(__name__)

Batches = DataLoader[tuple[Tensor, int]]
"""Batches of images, float32 (B, C, H, W) in [0, 1], and labels, int64 (B,)."""


class ImageDataModule(LightningDataModule):
    """Images for a classifier, for the mixture of its features, for calibration and for the test.

    Everything but the test split comes out of the official training split by fixed index
    (``trainers.data.splits``). The data is loaded when something first asks for it.
    """

    def __init__(
        self,
        source: Callable[..., LabelledImages],
        *,
        root: str | os.PathLike[str] | None = "data",
        num_classes: int | None = None,
        image_shape: Sequence[int] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        batch_size: int = 128,
        num_workers: int = 0,
        pin_memory: bool = False,
        augment: Augmentation | None = None,
        unlabelled: Unlabelled | None = None,
        label_by: Literal["name", "order"] = "order",
        model_classes: Sequence[Sequence[str]] | None = None,
        calibration_every: int = 10,
        validation_every: int = 20,
        mixture_every: int | None = 5,
        n_labelled: int | None = None,
        seed: int = 0,
    ) -> None:
        """Take the options; nothing is read yet.

        Args:
            source: called as ``source(root=root, split="train")`` and with ``split="test"``; without a root of None.
            num_classes, image_shape: expected, (C, H, W); None takes what the data has.
            mean, std: of each channel, for the classifier's normalisation; not applied here.
            batch_size, num_workers, pin_memory: of every loader, see ``DataLoader``.
            augment: random changes to the images of the train loader, and of no other.
            unlabelled: what the train loader adds of images without their labels; None for nothing.
            label_by: whether a class of the data is the class of ``model_classes`` that has its ``"name"``, or, as
                where there are none, the label is its place in the ``"order"`` of the data.
            model_classes: of each class that the classifier was trained on, the names that it goes by.
            calibration_every, validation_every, mixture_every: see ``split_indices``.
            n_labelled: size of the class-balanced subset that keeps its labels; the others join the mixture split.
            seed: of the choice of labelled images and of the train loader's order.

        Raises:
            ValueError: an option is out of range.
        """
        super().__init__()
        for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
            if value < least:
                raise ValueError(f"{name}: expected an integer >= {least}; got {value}")
        self.declared_shape = None if image_shape is None else as_image_shape(image_shape)
        channels = (1, 3) if self.declared_shape is None else self.declared_shape[:1]
        self.mean, self.std = _channel_values("mean", mean, channels), _channel_values("std", std, channels)
        if self.std is not None and not all(value > 0 for value in self.std):
            raise ValueError(f"std: expected numbers > 0 in every channel; got {list(self.std)}")
        self.source = source
        self.root = root
        self.declared_classes = num_classes
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.augment = augment or Augmentation()
        self.unlabelled = unlabelled
        if label_by not in ("name", "order"):
            raise ValueError(f"label_by: expected name or order; got {label_by!r}")
        self.model_classes = model_classes if label_by == "name" else None
        self.shares: dict[str, Any] = {
            "calibration_every": calibration_every,
            "validation_every": validation_every,
            "mixture_every": mixture_every,
        }
        split_indices(1000, **self.shares)  # shares out of range are told now, before the data is read
        self.n_labelled = n_labelled
        self.seed = seed

    @cached_property
    def training_images(self) -> LabelledImages:
        """The official training split, whole."""
        images = self._load("train")
        n_classes = len(images.class_names)
        if n_classes < 2:
            raise DataError(
                f"expected images of at least two classes; got {n_classes}: {', '.join(images.class_names) or 'none'}. "
                "A classifier of one class has nothing to decide: set data.root to a folder of class folders"
            )
        if self.declared_classes not in (None, n_classes):
            raise DataError(
                f"data.num_classes: expected {n_classes}, as the data have them; got {self.declared_classes}: set "
                f"data.num_classes={n_classes}, or give other data"
            )
        if self.declared_shape not in (None, images.image_shape):
            raise DataError(
                f"data.image_shape: expected {_shape(images.image_shape)}, of the images of the data; got "
                f"{_shape(self.declared_shape or ())}: set data.image_shape={_shape(images.image_shape)}"
            )
        return images

    @cached_property
    def test_images(self) -> LabelledImages:
        """The official test split, whole."""
        images = self._load("test")
        if images.image_shape != self.training_images.image_shape:
            raise DataError(
                f"test images: expected {_shape(self.training_images.image_shape)}, as the training images; got "
                f"{_shape(images.image_shape)}: give images of one shape"
            )
        return images

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.training_images.class_names)

    @property
    def class_names(self) -> list[str]:
        """One name for each class, in the order of the labels."""
        return self.training_images.class_names

    @property
    def image_shape(self) -> ImageShape:
        """(C, H, W)."""
        return self.training_images.image_shape

    @property
    def mixture_role(self) -> Literal["own", "shared"]:
        """Whether the mixture split is its "own", or "shared": it holds all images of the train split."""
        return "shared" if self.shares["mixture_every"] is None else "own"

    @cached_property
    def indices(self) -> dict[str, Tensor]:
        """Sorted int64 indices of each split: of "test" into the test split, of the others into the training split.

        Raises:
            OverlapError: two splits that must be disjoint are not.
            ValueError: too few images or labels.
        """
        indices = self._split()
        if self.n_labelled is not None:
            pool = indices["train"]
            targets = self.training_images.targets[pool]
            labelled = balanced_subset(targets, self.n_labelled, self.num_classes, self.seed)
            indices["train"] = pool[labelled]
            if self.mixture_role == "own":
                unlabelled = torch.ones(len(pool), dtype=torch.bool)
                unlabelled[labelled] = False
                indices["mixture"] = torch.cat([indices["mixture"], pool[unlabelled]]).sort().values
        shared = frozenset({"train", "mixture"}) if self.mixture_role == "shared" else frozenset()
        check_disjoint(indices, may_overlap=shared)
        indices["test"] = torch.arange(len(self.test_images))
        for sentence in duplicates(self.training_images, self.test_images, indices):
            log.warning("data: %s", sentence)
        return indices

    def _split(self) -> dict[str, Tensor]:
        return split_indices(len(self.training_images), **self.shares, held_out=self.training_images.held_out)

    @cached_property
    def unlabelled_indices(self) -> Tensor:
        """Indices of what "train" was before images lost their labels; those that kept theirs are among them."""
        return self._split()["train"]

    def prepare_data(self) -> None:
        """Find the data, or download it, in one process."""
        _ = self.indices

    def setup(self, stage: str | None = None) -> None:
        """Load the data, unless this process has, and check that the splits are disjoint."""
        _ = self.indices

    def train_dataloader(self) -> Batches | CombinedLoader:
        """Augmented training images, in an order that ``seed`` decides.

        With ``unlabelled``: batches {"labelled": (images, labels), "unlabelled": (a batch of images for each view)},
        until the longer of both is through; the shorter begins anew.
        """
        if self.unlabelled is None:
            return self.labelled_dataloader()
        loaders = {"labelled": self.labelled_dataloader(), "unlabelled": self.unlabelled_dataloader(self.unlabelled)}
        return CombinedLoader(loaders, "max_size_cycle")

    def labelled_dataloader(self) -> Batches:
        """Augmented images of the train split with their labels, in an order that ``seed`` decides."""
        images, indices = self.training_images, self.indices["train"]
        transform = self.augment.transform(self.image_shape)
        if transform is None:
            return self._shuffled(self._subset("train"), self.batch_size)
        augmented = MappedImages(images, indices, transform, images.targets[indices], self.image_shape)
        return self._shuffled(augmented, self.batch_size)

    def unlabelled_dataloader(self, unlabelled: Unlabelled) -> DataLoader[tuple[Tensor, ...]]:
        """Views of the images of ``unlabelled_indices``, in an order that ``seed`` decides."""
        images = unlabelled.images(self.training_images, self.unlabelled_indices, self.augment, self.image_shape)
        return self._shuffled(images, unlabelled.ratio * self.batch_size)

    def val_dataloader(self) -> Batches:
        """Validation images, in order."""
        return self._ordered("validation")

    def mixture_dataloader(self) -> Batches:
        """The images that the mixture is fitted to, in order and never augmented.

        In a distributed run each process gets its share, without padding or repetition, so that the sum of
        the processes' sufficient statistics is that of one process.
        """
        dataset = self._subset("mixture")
        sampler = None
        if distributed.is_available() and distributed.is_initialized():
            if len(dataset) < distributed.get_world_size():
                raise DataError(
                    f"mixture images: expected at least one for each of {distributed.get_world_size()} processes; got "
                    f"{len(dataset)}: start fewer processes, or choose a smaller data.mixture_every"
                )
            sampler = UnrepeatedDistributedSampler(dataset, shuffle=False)
        return DataLoader(dataset, sampler=sampler, **self._loader_options)

    def calibration_dataloader(self) -> Batches:
        """Calibration images, in order."""
        return self._ordered("calibration")

    def test_dataloader(self) -> Batches:
        """Test images, in order."""
        return self._ordered("test")

    def fingerprint(self) -> str:
        """16 hexadecimal digits, equal when the same images (``content_digest``) play the same roles."""
        digest = hashlib.sha256()
        for images in (self.training_images, self.test_images):
            digest.update(content_digest(images).encode())
        for name, indices in sorted(self.indices.items()):
            digest.update(name.encode() + indices.numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def _loader_options(self) -> dict[str, Any]:
        return {
            "batch_size": self.batch_size,
            "num_workers": self.num_workers,
            "pin_memory": self.pin_memory,
            "persistent_workers": self.num_workers > 0,
        }

    def _load(self, split: str) -> LabelledImages:
        where = {} if self.root is None else {"root": self.root}
        images = self.source(split=split, **where)
        return images if self.model_classes is None else label_by_name(images, self.model_classes)

    def _subset(self, split: str) -> Subset[tuple[Tensor, int]]:
        images = self.test_images if split == "test" else self.training_images
        return Subset(images, self.indices[split].tolist())

    def _shuffled(self, dataset: Dataset[Any], batch_size: int) -> DataLoader[Any]:
        sampler = EpochSampler(dataset, self.seed)  # type: ignore[arg-type]
        # Workers that outlive an epoch draw on from states of their own, which no checkpoint holds.
        options = self._loader_options | {"batch_size": batch_size, "persistent_workers": False}
        return LateLoader(
            dataset,
            sampler=sampler,
            generator=sampler.generator,  # seeds the workers
            # Batch normalisation can't train on a last batch of one image.
            drop_last=len(dataset) > 1 and len(dataset) % batch_size == 1,  # type: ignore[arg-type]
            **options,
        )

    def _ordered(self, split: str) -> Batches:
        return DataLoader(self._subset(split), shuffle=False, **self._loader_options)


def _shape(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"  # as on a command line


def _channel_values(name: str, values: Sequence[float] | None, channels: Sequence[int]) -> tuple[float, ...] | None:
    if values is None:
        return None
    if len(values) not in channels:
        expected = "one or three values" if len(channels) > 1 else f"{channels[0]} value{'s' * (channels[0] > 1)}"
        raise ValueError(f"{name}: expected {expected}, one per channel; got {list(values)}")
    return tuple(float(value) for value in values)
