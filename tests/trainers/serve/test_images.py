"""Bytes become the image that task=score reads, or a refusal that says why."""

import io
import struct
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trainers.data import image_files
from trainers.data.image_files import decode
from trainers.data.resize import Resize
from trainers.serve.images import ImageRejected, read_image

SHAPE = (3, 8, 8)


def picture(mode="RGB", size=(20, 13), kind="PNG", **options) -> bytes:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (size[1], size[0], 3), dtype=torch.uint8, generator=generator)
    stream = io.BytesIO()
    Image.fromarray(pixels.numpy()).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def png_header(width, height) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + body
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(body)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    )  # fmt: skip


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(kind="JPEG", exif=exif)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 16, 5)])
@pytest.mark.parametrize(
    "body",
    [
        picture(), picture("L"), picture("P"), picture("RGBA"), picture("1"), picture("LA"),
        picture("CMYK", kind="JPEG"), picture(kind="WEBP"), picture(kind="BMP"), picture(kind="TIFF"), rotated(),
    ],
)  # fmt: skip
def test_an_image_is_read_as_from_a_folder(body, shape, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(body)
    assert torch.equal(read_image(body, shape, 10_000), decode(str(path), shape))
    assert torch.equal(read_image(body, shape, 10_000, Resize(0.8)), decode(str(path), shape, Resize(0.8)))


def test_a_header_that_claims_too_many_pixels_is_refused_before_a_pixel_is_decoded(monkeypatch):
    monkeypatch.setattr(image_files, "standard_mode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ImageRejected, match="5,000 x 5,000 = 25,000,000") as caught:
        read_image(png_header(5000, 5000), SHAPE, 24_999_999)
    assert caught.value.status == 413
    for width in (14_000, 60_000):  # where Pillow warns, where it refuses by itself
        with pytest.raises(ImageRejected, match="expected at most 1,000,000 pixels") as caught:
            read_image(png_header(width, width), SHAPE, 1_000_000)
        assert caught.value.status == 413


def test_the_bound_itself_is_allowed():
    assert read_image(picture(size=(20, 10)), SHAPE, 200).shape == SHAPE


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"hello", 415),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415),  # would start Ghostscript
        (picture(kind="ICO"), 415),
        (picture()[:-40], 422),
        (picture(kind="JPEG")[:300], 422),
        (png_header(8, 8), 422),
    ],
)
def test_other_bytes_are_refused_with_the_status_that_says_why(body, status):
    with pytest.raises(ImageRejected) as caught:
        read_image(body, SHAPE, 10_000)
    assert caught.value.status == status


def test_a_damaged_image_is_told_with_what_is_wrong_and_what_to_do():
    with pytest.raises(ImageRejected, match=r"be decoded \(.*truncated.*\): send it again, or repair it"):
        read_image(picture()[:-40], SHAPE, 10_000)


SEEDS = [picture(kind=kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM")] + [rotated()]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_files_give_an_image_or_a_refusal_and_nothing_else(data):
    body = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 8))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    sent = bytes(body[:cut] if data.draw(st.booleans()) else body)
    try:
        found = read_image(sent, SHAPE, 10_000)
    except ImageRejected as refusal:
        found = refusal.status
    assert found in (413, 415, 422) if isinstance(found, int) else (found.shape, found.dtype) == (SHAPE, torch.uint8)
