"""Every mode that Pillow reads is brought to [0, 1] with its values, or refused with a reason, on every way alike."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, features

from trainers.data.conform import as_image
from trainers.data.errors import DataError, UnreadableImagesError
from trainers.data.file_batches import FileBatches
from trainers.data.folder import image_folder
from trainers.data.image_files import decode
from trainers.data.pixels import as_unit
from trainers.serve.images import ImageRejected, read_image

SHAPE = (3, 16, 16)
RAMP = np.linspace(0.1, 0.9, 256, dtype=np.float32).reshape(16, 16)
DEEP = (RAMP * 65535).round().astype(np.uint16)
BIG_ENDIAN = Image.frombytes("I;16B", (16, 16), DEEP.astype(">u2").tobytes())
GRAY = Image.fromarray((RAMP * 255).round().astype(np.uint8))


def colour() -> Image.Image:
    return Image.merge("RGB", [GRAY, GRAY.rotate(90), GRAY.rotate(180)])


def palette() -> Image.Image:
    return GRAY.convert("P")


def content(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pgm(maximum: int) -> bytes:
    values = (RAMP * maximum).round().astype(">u2")
    return b"P5 16 16 %d\n" % maximum + values.tobytes()


def alpha(image: Image.Image) -> Image.Image:
    image.putalpha(Image.linear_gradient("L").resize((16, 16)))
    return image


def deep_png(colour_type: int, n_channels: int) -> bytes:
    """A PNG of 16 bits a channel, which Pillow reads and does not write."""
    row = b"\0" + np.full(16 * n_channels, 0x1234, ">u2").tobytes()
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, colour_type, 0, 0, 0)), (b"IDAT", zlib.compress(row * 16))]
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in [*chunks, (b"IEND", b"")]:
        parts.append(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
    return b"".join(parts)


def deep_tiff() -> bytes:
    """A TIFF with 16 bits in each of three channels: the tags that a reader needs, then the pixels."""
    tags = [(256, 16), (257, 16), (258, None), (259, 1), (262, 2), (273, None), (277, 3), (278, 16), (279, 1536)]
    bits = 8 + 2 + 12 * len(tags) + 4
    values = {258: (3, bits), 273: (1, bits + 6)}
    fields = b"".join(
        struct.pack("<HHII", tag, 3 if tag == 258 else 4, *values.get(tag, (1, each))) for tag, each in tags
    )
    header = b"II*\0" + struct.pack("<IH", 8, len(tags)) + fields + struct.pack("<I", 0)
    return header + struct.pack("<HHH", 16, 16, 16) + np.full(768, 0x1234, "<u2").tobytes()


# name -> (bytes, expected gray values or None for those of `colour`, tolerance)
KEPT = {
    "1": (content(GRAY.convert("1"), "PNG"), np.asarray(GRAY.convert("1")).astype(np.float32), 0),
    "L": (content(GRAY, "PNG"), RAMP, 0.002),
    "LA": (content(alpha(GRAY.copy()), "PNG"), RAMP, 0.002),
    "P": (content(palette(), "PNG"), RAMP, 0.002),
    "P with a transparent colour": (content(palette(), "PNG", transparency=100), RAMP, 0.002),
    "RGB": (content(colour(), "PNG"), None, 0),
    "RGBA": (content(alpha(colour()), "PNG"), None, 0),
    "RGBA, WebP": (content(alpha(colour()), "WEBP", lossless=True, exact=True), None, 0),
    "CMYK": (content(colour().convert("CMYK"), "TIFF"), None, 0.01),
    "YCbCr": (content(colour().convert("YCbCr"), "TIFF"), None, 0.02),
    "several frames, WebP": (content(colour(), "WEBP", save_all=True, append_images=[GRAY], lossless=True), None, 0),
    "several frames, PNG": (content(colour(), "PNG", save_all=True, append_images=[GRAY.convert("RGB")]), None, 0),
    "several pages": (content(colour(), "TIFF", save_all=True, append_images=[GRAY.convert("RGB")]), None, 0),
    "GIF": (content(GRAY.convert("P"), "GIF"), RAMP, 0.002),
    "several frames, GIF": (content(GRAY, "GIF", save_all=True, append_images=[GRAY.rotate(90)]), RAMP, 0.002),
    "16 bits, PNG": (content(Image.fromarray(DEEP), "PNG"), RAMP, 1e-5),
    "16 bits, TIFF": (content(Image.fromarray(DEEP), "TIFF"), RAMP, 1e-5),
    "16 bits, big-endian TIFF": (
        content(BIG_ENDIAN, "TIFF"),
        RAMP,
        1e-5,
    ),
    "16 bits, white is zero": (content(Image.fromarray(DEEP), "TIFF", tiffinfo={262: 0}), 1 - RAMP, 1e-5),
    "16 bits, PGM": (pgm(65535), RAMP, 1e-5),
    "12 bits, PGM": (pgm(4095), RAMP, 2e-4),
    "float": (content(Image.fromarray(RAMP), "TIFF"), RAMP, 1e-6),
}
if features.check("avif"):
    KEPT["AVIF"] = (content(colour(), "AVIF", quality=100, subsampling="4:4:4"), None, 0.04)
REFUSED = {
    "colour of 16 bits, PNG": (deep_png(2, 3), "RGB with 16, of which the lower eight would be lost"),
    "transparency of 16 bits, PNG": (deep_png(6, 4), "RGBA with 16"),
    "gray of 16 bits with transparency, PNG": (deep_png(4, 2), "LA with 16|RGBA with 16"),
    "colour of 16 bits, PPM": (b"P6 16 16 65535\n" + bytes(16 * 16 * 6), "RGB with 16"),
    "colour of 16 bits, TIFF": (deep_tiff(), "RGB with 16"),
    "float of another range": (content(Image.fromarray(RAMP * 255), "TIFF"), r"floating point pixels in \[0, 1\]"),
    "float, not a number": (content(Image.fromarray(RAMP * np.nan), "TIFF"), r"floating point pixels in \[0, 1\]"),
    "32 bits": (content(Image.fromarray(DEEP.astype(np.int32)), "TIFF"), "integers of 32 bits"),
    "LAB": (content(Image.new("LAB", (16, 16)), "TIFF"), "mode LAB"),
}


@pytest.mark.parametrize("name", KEPT)
def test_values_are_kept_on_every_way(name, tmp_path):
    body, gray, tolerance = KEPT[name]
    expected = np.moveaxis(np.asarray(colour()) / 255, 2, 0) if gray is None else np.broadcast_to(gray, SHAPE)
    folder = tmp_path / "class"
    folder.mkdir()
    path = folder / "image.png"
    path.write_bytes(body)
    found = as_unit(decode(str(path), SHAPE))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor(expected).float(), rtol=0, atol=tolerance + 1e-6)
    assert torch.equal(as_unit(read_image(body, SHAPE, 10_000)), found)
    assert torch.equal(FileBatches([str(path)], SHAPE, 1)[0].images[0], found)
    for cache in (False, True):
        assert torch.equal(image_folder(tmp_path, "all", image_shape=SHAPE, cache=cache)[0][0], found)


@pytest.mark.parametrize("name", REFUSED)
def test_numbers_without_a_range_are_refused_on_every_way(name, tmp_path):
    body, reason = REFUSED[name]
    path = tmp_path / "image.tif"
    path.write_bytes(body)
    with pytest.raises(DataError, match=reason):
        decode(str(path), SHAPE)
    with pytest.raises(ImageRejected, match=reason) as caught:
        read_image(body, SHAPE, 10_000)
    assert caught.value.status == 415
    batch = FileBatches([str(path)], SHAPE, 1)[0]
    assert torch.isnan(batch.images).all()
    assert str(path) in batch.errors[0]
    for cache in (False, True):
        with pytest.raises(UnreadableImagesError, match=reason):
            image_folder(tmp_path, "all", image_shape=SHAPE, cache=cache)


def test_deep_and_plain_images_of_one_folder_keep_their_values(tmp_path):
    GRAY.save(tmp_path / "a.png")
    Image.fromarray(DEEP).save(tmp_path / "b.png")
    GRAY.save(tmp_path / "c.png")
    (tmp_path / "d.png").write_bytes(b"torn")
    for cache in (False, True):
        images = image_folder(tmp_path, "all", image_shape=SHAPE, cache=cache, skip_unreadable=True)
        assert len(images) == 3
        assert torch.equal(images[0][0], images[2][0])
        torch.testing.assert_close(images[1][0], torch.tensor(RAMP).expand(SHAPE), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["L", "LA", "RGB", "RGBA", "16 bits, PNG", "float"])
def test_an_image_that_a_data_set_opened_is_the_one_of_the_file(name):
    body = KEPT[name][0]
    image = as_image(Image.open(io.BytesIO(body)))
    assert torch.equal(image.expand(SHAPE), as_unit(decode(io.BytesIO(body), SHAPE)))
