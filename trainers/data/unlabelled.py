"""Images without their labels, for training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn
from torch.utils.data import Dataset

from trainers.data.augmentation import Augmentation, StrongAugmentation
from trainers.data.images import ImageShape

View = Literal["weak", "strong"]


@dataclass(eq=False, repr=False)
class ViewedImages(Dataset[tuple[Tensor, ...]]):
    """Several random views of each image, float32 (C, H, W) each; the labels can't be reached."""

    dataset: Dataset[tuple[Tensor, int]]
    indices: Tensor  # (M,) the items of `dataset` to show, in order
    views: Sequence[Callable[[Tensor], Tensor]]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        image, _ = self.dataset[int(self.indices[index])]
        return tuple(view(image) for view in self.views)


@dataclass(frozen=True)
class Unlabelled:
    """What training takes of the images that lost their labels.

    Attributes:
        ratio: unlabelled images for each labelled one of a batch.
        views: what is made of each image: "weak" is the augmentation of the labelled images, "strong" the one below
            after it. Each is drawn anew, so that two weak views differ.
        strong: the strong augmentation.

    Raises:
        ValueError: the ratio is less than 1, or there is no view or one of another name.
    """

    ratio: int = 1
    views: Sequence[View] = ("weak",)
    strong: StrongAugmentation = field(default_factory=StrongAugmentation)

    def __post_init__(self) -> None:
        if self.ratio < 1:
            raise ValueError(f"ratio: expected an integer >= 1; got {self.ratio}")
        if not self.views or not set(self.views) <= {"weak", "strong"}:
            raise ValueError(f"views: expected a list of weak and strong; got {list(self.views)}")

    def images(
        self, dataset: Dataset[tuple[Tensor, int]], indices: Tensor, weak: Augmentation, image_shape: ImageShape
    ) -> ViewedImages:
        """The views of the chosen images of a dataset, given the augmentation of the labelled ones."""
        transforms = {
            "weak": weak.transform(image_shape) or nn.Identity(),
            "strong": self.strong.transform(weak, image_shape),
        }
        return ViewedImages(dataset, indices, [transforms[view] for view in self.views])
