"""The handwritten digits that scikit-learn ships."""

import torch
from sklearn.datasets import load_digits

from trainers.data.images import ImageArray, check_split


def digits(split: str = "train") -> ImageArray:
    """Load 1,797 digits, 8x8 and gray, of 17 levels (Alpaydin and Kaynak, UCI 1998, in part).

    They have no official test split; here it is every index with ``index % 5 == 4``: 359 images.
    """
    check_split(split)
    bunch = load_digits()
    images = torch.from_numpy(bunch.images)[:, None].mul(255 / 16).round().byte()
    in_test = torch.arange(len(images)) % 5 == 4
    chosen = in_test if split == "test" else ~in_test
    return ImageArray(
        images[chosen], torch.from_numpy(bunch.target)[chosen], [str(name) for name in bunch.target_names]
    )
