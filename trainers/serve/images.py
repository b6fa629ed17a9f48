"""Decoding of untrusted image bytes."""

import io
import logging
from collections.abc import Callable

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from trainers.data.errors import DataError
from trainers.data.formats import FORMATS
from trainers.data.image_files import TooManyPixelsError, decode
from trainers.data.images import ImageShape
from trainers.data.pixels import PixelError
from trainers.data.resize import DEFAULT_RESIZE, Resize

log = logging.getLogger(__name__)

MAX_REASON = 200  # characters: a decoder may cite the bytes
_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)


class ImageRejected(ValueError):
    """Bytes that are no image, damaged, or too large; `status` is HTTP's for it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def read_image(
    body: bytes,
    image_shape: ImageShape,
    max_pixels: int,
    resize: Resize = DEFAULT_RESIZE,
    on_size: Callable[[int, int], None] = lambda height, width: None,
) -> Tensor:
    """Decode the bytes of an image file exactly as `task=score` does, see `decode`.

    Raises:
        ImageRejected: 413 too many pixels, 415 no image of a known format, or of pixels without a range; 422 damaged.
    """
    if not body:
        raise ImageRejected(
            422, "expected an image; got no bytes: send the file as the body, or as multipart/form-data"
        )
    try:
        return decode(io.BytesIO(body), image_shape, resize, max_pixels, on_size)
    except DataError as error:
        raise _rejected(error, max_pixels) from error


def _rejected(error: DataError, max_pixels: int) -> ImageRejected:
    """What decoders raise on damaged bytes has no common class; whatever it is, the bytes are to blame."""
    cause = error.__cause__
    if isinstance(cause, MemoryError):
        raise cause
    if isinstance(cause, TooManyPixelsError):
        return ImageRejected(413, str(cause))
    if isinstance(cause, _BOMB):
        return ImageRejected(413, f"expected at most {max_pixels:,} pixels; got far more: scale the image down")
    if isinstance(cause, UnidentifiedImageError):
        return ImageRejected(415, f"expected an image: {', '.join(FORMATS)}; got bytes of none of these")
    if isinstance(cause, PixelError):
        return ImageRejected(415, str(error))
    log.debug("damaged image", exc_info=error)
    why = str(cause) or type(cause).__name__
    return ImageRejected(
        422, f"the image is damaged and can't be decoded ({why[:MAX_REASON]}): send it again, or repair it"
    )
