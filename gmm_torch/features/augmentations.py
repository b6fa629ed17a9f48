"""Test-time augmentations: fixed transforms of an image, each a view of it.

A view need not keep the label: the mixture learns how clean images behave under it. Adversarial images sit where the
views disagree. All are differentiable, keep the shape and map [0, 1] into [0, 1].
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gmm_torch.devices import full_precision
from gmm_torch.features.inputs import IMAGE_CHANNELS, Inputs, sole
from gmm_torch.features.modes import widen

BLUR_SIGMA = 0.6  # pixels
MIN_SIDE = 5  # pixels, of the blur


def identity(x: Tensor) -> Tensor:
    """The image itself."""
    return x


def mirror(x: Tensor) -> Tensor:
    """Left and right swapped."""
    return x.flip(-1)


def blur(x: Tensor) -> Tensor:
    """Gaussian blur over 5 x 5 pixels, so light that people hardly see it."""
    from torchvision.transforms.v2 import functional

    result: Tensor = functional.gaussian_blur(x, [5, 5], [BLUR_SIGMA, BLUR_SIGMA])
    return result


def shift(x: Tensor) -> Tensor:
    """Moved by two pixels down and right, the border reflected."""
    return F.pad(x, (2, 0, 2, 0), mode="reflect")[..., : x.shape[-2], : x.shape[-1]]


VIEWS = {view.__name__: view for view in (identity, mirror, blur, shift)}


def is_image(inputs: Inputs) -> bool:
    """True if a batch looks like images: floats (N, C, H, W) of 1, 3 or 4 channels and at least 5 pixels a side.

    A spectrogram of one channel can't be told from a gray image by its shape.
    """
    x = sole(inputs)
    if x is None or x.dim() != 4 or not x.is_floating_point():
        return False
    return x.shape[1] in IMAGE_CHANNELS and min(x.shape[2:]) >= MIN_SIDE


def check_views(names: tuple[str, ...]) -> None:
    """Raise unless every name is a view, the first is `identity`, and none comes twice."""
    unknown = [name for name in names if name not in VIEWS]
    if unknown:
        raise ValueError(f"views: expected names among {', '.join(VIEWS)}; got {', '.join(unknown)}")
    if not names or names[0] != "identity" or len(set(names)) < len(names):
        raise ValueError(f"views: expected 'identity' first and each view once; got {names}")


def passes(x: Tensor, names: tuple[str, ...]) -> list[Tensor]:
    """Batches for the classifier: all views of a batch (N, ...), view after view.

    An accelerator takes them all at once, (V N, ...); a CPU one by one, since its caches hold the maps of one view
    better than those of all: a third of the time was saved for a ResNet-20.
    """
    with full_precision(x.device):  # in half precision a blur would move what it should leave
        seen = [x if name == "identity" else VIEWS[name](widen(x)).to(x.dtype) for name in names]
    return seen if x.device.type == "cpu" or len(seen) == 1 else [torch.cat(seen)]
