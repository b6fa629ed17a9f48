"""Choice of the images to attack: those that the classifier gets right."""

from collections.abc import Sized
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, SequentialSampler, Subset


@dataclass(frozen=True)
class CorrectImages:
    """Images that a classifier gets right, on the CPU, in the order of the data."""

    images: Tensor  # (n, C, H, W), in [0, 1]
    label: Tensor  # (n,) int64
    index: Tensor  # (n,) int64, position of each in the data set

    def rows(self, which: Tensor) -> "CorrectImages":
        """Some of the images."""
        return CorrectImages(self.images[which], self.label[which], self.index[which])

    def batches(self, size: int) -> list[tuple[Tensor, Tensor]]:
        """Images and labels; no batch is empty."""
        pairs = zip(self.images.split(size), self.label.split(size), strict=True)
        return [pair for pair in pairs if len(pair[0])]


@torch.no_grad()
def predict(classifier: nn.Module, images: Tensor, device: torch.device, batch_size: int) -> Tensor:
    """The classes, (N,) int64 on the CPU, of images (N, C, H, W) by a classifier in eval mode on `device`."""
    if not len(images):
        return torch.zeros(0, dtype=torch.int64)
    return torch.cat([classifier(x.to(device)).argmax(dim=1).cpu() for x in images.split(batch_size)])


def draw_correct(
    classifier: nn.Module,
    loader: DataLoader,
    n_images: int | None,
    device: torch.device,
    batch_size: int,
    seed: int,
) -> CorrectImages:
    """Draw images at random until enough of them are classified rightly; no more of the data set is read.

    Args:
        classifier: images to logits, in eval mode, on `device`.
        loader: gives batches of images and labels, in the order of its data set.
        n_images: at most so many; None for all that are classified rightly.

    Raises:
        ValueError: if the loader shuffles, its data set is empty, or images are not in [0, 1].
    """
    if not isinstance(loader.sampler, SequentialSampler):
        raise ValueError(
            "attacks: expected a loader in the data set's order (shuffle=False), as they report positions in it; got "
            f"one with a {type(loader.sampler).__name__}: leave it out"
        )
    size = len(cast(Sized, loader.dataset))
    if not size:
        raise ValueError("attacks: expected images to attack; got an empty data set: give some")
    wanted = size if n_images is None else n_images
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    drawn = DataLoader(
        Subset(loader.dataset, order.tolist()),
        batch_size=batch_size,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
    )
    found = []
    for (x, y, *_), index in zip(drawn, order.split(batch_size), strict=False):
        _check_pixels(x)
        right = predict(classifier, x, device, batch_size) == y
        found.append((x[right], y[right], index[right]))
        wanted -= int(right.sum())
        if wanted <= 0:
            break
    chosen = CorrectImages(*(torch.cat(parts)[:n_images] for parts in zip(*found, strict=True)))
    return chosen.rows(chosen.index.argsort())


def _check_pixels(images: Tensor) -> None:
    if not ((images >= 0) & (images <= 1)).all():  # false for NaN, too
        raise ValueError(
            f"attacks: expected pixels in [0, 1]; got some from {images.min():.4g} to {images.max():.4g}: leave the "
            "normalisation to the classifier"
        )
