"""Which formats of image files are read."""

from importlib.util import find_spec

from PIL import features
from torchvision.datasets.folder import IMG_EXTENSIONS

# Pillow knows more, and opens a file by its content whatever its name; EPS would start another program.
FORMATS: tuple[str, ...] = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
EXTENSIONS: tuple[str, ...] = (*IMG_EXTENSIONS, ".gif")

if features.check("avif"):
    FORMATS, EXTENSIONS = (*FORMATS, "AVIF"), (*EXTENSIONS, ".avif")
if find_spec("pillow_heif"):  # the plugin is a package of its own
    from pillow_heif import register_heif_opener

    register_heif_opener()
    FORMATS, EXTENSIONS = (*FORMATS, "HEIF"), (*EXTENSIONS, ".heic", ".heif")


def is_image(path: str) -> bool:
    """Whether a file's name ends as those of images do."""
    return path.lower().endswith(EXTENSIONS)
