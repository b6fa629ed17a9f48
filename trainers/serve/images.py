"""From the bytes of a request to the image that the classifier takes; nothing about the bytes is trusted."""

import io
import logging

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from trainers.data.errors import DataError
from trainers.data.image_files import FORMATS, decode
from trainers.data.images import ImageShape
from trainers.data.pixels import PixelError

log = logging.getLogger(__name__)

_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)


class ImageRejected(ValueError):
    """Bytes that are no image, damaged, or too large.

    Attributes:
        status: the HTTP status that says so.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def read_image(body: bytes, image_shape: ImageShape, max_pixels: int, crop_share: float = 1.0) -> Tensor:
    """Decode an image exactly as `task=score` does, once its header says that it is not too large.

    Args:
        body: a file in one of `FORMATS`; of several frames the first counts.
        image_shape: (C, H, W) that the classifier takes.
        max_pixels: largest width times height.
        crop_share: see `decode`.

    Returns:
        (C, H, W), see `decode`.

    Raises:
        ImageRejected: 413 too many pixels, 415 no image of a known format, or of pixels without a range; 422 damaged.
    """
    if not body:
        raise ImageRejected(
            422, "expected an image; got no bytes: send the file as the body, or as multipart/form-data"
        )
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as file:
            width, height = file.size
    except _BOMB as error:
        raise ImageRejected(
            413, f"expected at most {max_pixels:,} pixels; got far more: scale the image down"
        ) from error
    except UnidentifiedImageError as error:
        raise ImageRejected(415, f"expected an image: {', '.join(FORMATS)}; got bytes of none of these") from error
    except Exception as error:
        raise _damaged(error) from error
    if width * height > max_pixels:
        raise ImageRejected(
            413,
            f"expected at most {max_pixels:,} pixels; got {width:,} x {height:,} = {width * height:,}: "
            "scale the image down",
        )
    try:
        return decode(io.BytesIO(body), image_shape, crop_share)
    except DataError as error:
        if isinstance(error.__cause__, PixelError):
            raise ImageRejected(415, str(error)) from error
        if isinstance(error.__cause__, _BOMB):  # some formats learn their size only now
            raise ImageRejected(
                413, f"expected at most {max_pixels:,} pixels; got far more: scale the image down"
            ) from error
        raise _damaged(error.__cause__ or error) from error


def _damaged(error: BaseException) -> ImageRejected:
    """What decoders raise on damaged bytes has no common class; whatever it is, the bytes are to blame."""
    if isinstance(error, MemoryError):
        raise error
    log.debug("damaged image", exc_info=error)
    return ImageRejected(422, f"the image is damaged and can't be decoded ({type(error).__name__})")
