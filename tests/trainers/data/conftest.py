import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WriteIdx = Callable[..., np.ndarray]
WriteFolder = Callable[..., list[Path]]


@pytest.fixture
def write_idx() -> WriteIdx:
    """Write the two IDX files of a split; return the images, (n, 28, 28) uint8."""

    def write(folder: Path, stem: str = "t10k", n: int = 30, packed: bool = False) -> np.ndarray:
        folder.mkdir(parents=True, exist_ok=True)
        images = np.random.default_rng(n).integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = (np.arange(n) % 10 + ("letters" in stem)).astype(np.uint8)  # those of EMNIST begin at one
        contents = {
            f"{stem}-images-idx3-ubyte": struct.pack(">IIII", 0x803, n, 28, 28) + images.tobytes(),
            f"{stem}-labels-idx1-ubyte": struct.pack(">II", 0x801, n) + labels.tobytes(),
        }
        for name, content in contents.items():
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
        return images

    return write


@pytest.fixture
def write_folder() -> WriteFolder:
    """Write a folder of class folders with ``n`` images each; return the paths, sorted."""

    def write(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), n: int = 10, ext: str = "png") -> list[Path]:
        paths = []
        random = np.random.default_rng(0)
        for label, name in enumerate(classes):
            (folder / name).mkdir(parents=True)
            for i in range(n):
                pixels = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
                pixels[..., 0] = 10 * label
                paths.append(folder / name / f"{i:03d}.{ext}")
                Image.fromarray(pixels).save(paths[-1])
        return sorted(paths)

    return write
