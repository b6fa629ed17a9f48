"""Which numbers an image file stands for: the one place that decides it for every mode that Pillow reads.

| mode | becomes |
| --- | --- |
| 1, L, P, RGB, RGBX, YCbCr, CMYK, HSV | 8 bits, by Pillow's own conversion |
| LA, La, PA, RGBA, RGBa, a palette with a transparent colour | 8 bits; transparency is left out, as torchvision's `ImageFolder` does |
| I;16 and its byte orders, I of a PNG or PPM file | 16 bits unsigned, divided by 65,535; white where the file says so |
| F | the values as they are, if they are in [0, 1]; otherwise refused |
| colour or transparency with 16 bits a channel | refused: Pillow would leave out the lower eight |
| I of other files (32 bits, signed), LAB, anything else | refused: no value of them is white by itself |

Of several frames or pages the first counts. The orientation that EXIF names is applied; colour profiles are not.
"""  # noqa: E501

import numpy as np
import torch
from PIL import Image
from torch import Tensor

PLAIN_MODES = ("1", "L", "P", "RGB", "RGBX", "YCbCr", "CMYK", "HSV", "LA", "PA", "RGBA")  # of 8 bits
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_UP_TO_65535 = ("PNG", "PPM")  # formats whose integers Pillow brings to 16 bits, in a mode of 32
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # TIFF 6.0, section 4


class PixelError(ValueError):
    """An image whose numbers say nothing of what is black and what is white."""


def standard_mode(image: Image.Image, channels: int) -> Image.Image:
    """Bring an image of any mode to "L" or "RGB", as `channels` says, or where it has more bits to "F" in [0, 1].

    Raises:
        PixelError: its values have no range of their own.
    """
    if image.mode in _PREMULTIPLIED:
        image = image.convert(_PREMULTIPLIED[image.mode])
    if image.mode in PLAIN_MODES:
        mode = "RGB" if channels == 3 else "L"
        return image if image.mode == mode else image.convert(mode)
    if image.mode in _SIXTEEN_BITS or (image.mode == "I" and image.format in _UP_TO_65535):
        scaled = np.asarray(image).astype(np.float32) / 65535
        inverted = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        return Image.fromarray(1 - scaled if inverted else scaled)
    if image.mode == "F":
        values = np.asarray(image)
        low, high = float(values.min()), float(values.max())  # NaN where a pixel is
        if 0 <= low <= high <= 1:
            return image
        raise PixelError(
            f"expected floating point pixels in [0, 1]; got {low:g} to {high:g}: scale them, or save it with 8 or 16 "
            "bits, unsigned"
        )
    kind = "integers of 32 bits or with a sign" if image.mode == "I" else f"pixels of mode {image.mode}"
    raise PixelError(f"expected gray or colour with 8 or 16 bits, unsigned; got {kind}: convert it")


def check_depth(image: Image.Image) -> None:
    """Raise PixelError where Pillow would read channels of more than 8 bits as 8, before pixels are loaded."""
    if image.mode not in PLAIN_MODES:
        return
    for _, _, _, arguments in getattr(image, "tile", ()):
        first, *others = arguments if isinstance(arguments, tuple) else (arguments,)
        deep_ppm = image.format == "PPM" and any(isinstance(each, int) and each > 255 for each in others)
        if deep_ppm or ";16" in str(first):
            raise PixelError(
                f"expected colour with 8 bits a channel; got {image.mode} with 16, of which the lower eight would be "
                "lost: save it with 8 bits, or gray with 16"
            )


def is_gray(image: Image.Image) -> bool:
    """Whether an image has no colour."""
    return image.mode in ("1", "L", "LA", "La", "F", "I", *_SIXTEEN_BITS)


def to_tensor(image: Image.Image, channels: int) -> Tensor:
    """The pixels of what `standard_mode` gave: (channels, H, W), uint8, or float32 in [0, 1] for mode "F"."""
    pixels = torch.from_numpy(np.array(image))
    if image.mode == "F":
        return pixels.clamp(0, 1).expand(channels, -1, -1).contiguous()
    return pixels.reshape(image.height, image.width, channels).permute(2, 0, 1).contiguous()


def as_unit(pixels: Tensor) -> Tensor:
    """Float32 in [0, 1]: uint8 divided by 255, float32 as it is."""
    return pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels
