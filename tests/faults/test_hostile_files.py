"""Files made to harm, and damaged ones: an error of a declared kind with a message, or a right answer."""

import gzip
import io
import itertools
import json
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.faults.mutate import deep
from tests.faults.parsers import PARSERS, PICKLES, fuzz, net
from tests.faults.watch import CodeRan, bounded_memory, no_code, no_hang
from trainers.classifiers.checkpoint import CheckpointError, load_weights, read_weights
from trainers.data import idx
from trainers.data.errors import DataError
from trainers.data.idx import idx_images
from trainers.data.image_files import decode, why_unreadable
from trainers.report.tables.jobs import summarize

# Pillow and torch warn of what they are about to refuse.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")


@pytest.fixture(autouse=True)
def guarded():
    with bounded_memory(), no_hang():
        yield


@pytest.mark.parametrize("make", PARSERS, ids=lambda make: make.__name__)
def test_damage_is_refused_or_does_no_harm(tmp_path, make):
    for name in ("seeds", "case"):
        (tmp_path / name).mkdir()
    tally = fuzz(make(tmp_path / "seeds"), 60, 1, tmp_path / "case")
    assert tally.faults == []
    assert tally.refused > 0


def test_the_watch_sees_code_that_runs():
    with pytest.raises(CodeRan, match=r"os\.system"), no_code():
        eval("__import__('os').system('true')")


# ---- checkpoints


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".safetensors"])
@pytest.mark.parametrize("pickled", PICKLES)
def test_a_pickle_is_refused_whatever_it_is_called(tmp_path, pickled, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(pickled)
    with no_code(), pytest.raises(CheckpointError):
        read_weights(path)


def _with_pickle(pickled: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A PyTorch file with another pickle in it."""
    sound, made = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.zeros(1)}, sound)
    with zipfile.ZipFile(sound) as source, zipfile.ZipFile(made, "w", compression) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, pickled if entry.filename.endswith(".pkl") else source.read(entry))
    return made.getvalue()


def test_a_pickle_that_would_hash_for_years_is_refused(tmp_path):
    nested = b"".join(b"h%c\x86q%c" % (i, i + 1) for i in range(90))  # each tuple holds the one before twice
    (tmp_path / "weights.pt").write_bytes(_with_pickle(b"\x80\x02})q\x00" + nested + b"K\x01s."))
    with pytest.raises(CheckpointError, match="grow without bounds"):
        read_weights(tmp_path / "weights.pt")


def test_a_pickle_that_asks_for_memory_is_refused(tmp_path):
    asks = b"\x80\x02c__builtin__\nbytearray\nJ" + struct.pack("<i", 2**31 - 1) + b"\x85R."
    (tmp_path / "weights.pt").write_bytes(_with_pickle(asks))
    with pytest.raises(CheckpointError, match="bytearray"):
        read_weights(tmp_path / "weights.pt")


def test_a_packed_checkpoint_is_refused(tmp_path):
    zeros = b"\x80\x02U\xff" + b"\0" * 2**24 + b"."
    (tmp_path / "weights.pt").write_bytes(_with_pickle(zeros, zipfile.ZIP_DEFLATED))
    with pytest.raises(CheckpointError, match="compressed archive"):
        read_weights(tmp_path / "weights.pt")


def test_weights_that_are_nan_are_refused_and_the_network_stays_as_it_was(tmp_path):
    module, state = net(), net().state_dict()
    state["head.bias"] = torch.full((2,), torch.nan)
    with pytest.raises(CheckpointError, match=r"1 keys with NaN: head\.bias"):
        load_weights(module, state, "weights.pt")
    assert not module.head.bias.isnan().any()


# ---- images


def test_postscript_under_the_name_of_a_png_starts_no_program(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "image.eps")
    path = (tmp_path / "image.eps").rename(tmp_path / "image.png")
    with no_code(), pytest.raises(DataError, match=r"image\.png can't be decoded"):
        decode(str(path), (3, 4, 4))


@pytest.mark.parametrize("side", [12_000, 2**16])
def test_a_small_file_that_declares_a_huge_image_is_refused(tmp_path, side):
    file = io.BytesIO()
    Image.new("1", (side, 1)).save(file, "PNG")
    content = file.getvalue()
    header = b"IHDR" + struct.pack(">II", side, side) + content[24:29]
    path = tmp_path / "image.png"
    path.write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])
    assert why_unreadable(str(path))
    with pytest.raises(DataError, match="pixels"):
        decode(str(path), (3, 8, 8))


# ---- IDX


def _write_idx(folder: Path, shape: tuple[int, ...], pixels: bytes, labels: bytes, packed: bool = False) -> None:
    files = {
        "t10k-images-idx3-ubyte": struct.pack(">IIII", 0x803, *shape) + pixels,
        "t10k-labels-idx1-ubyte": struct.pack(">II", 0x801, len(labels)) + labels,
    }
    for name, content in files.items():
        (folder / f"{name}.gz" if packed else folder / name).write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("shape", [(2**31, 28, 28), (2**32 - 1, 1, 1), (2**31, 2**31, 4), (2, 2**16, 2**16)])
def test_a_header_that_declares_what_is_not_there_is_refused(tmp_path, shape):
    _write_idx(tmp_path, shape, b"\0" * 64, b"\0\1")
    with pytest.raises(DataError, match="expected an IDX file; got a damaged one"):
        idx_images("MNIST", tmp_path, "test", download=False)


def test_a_gzip_bomb_is_left_after_its_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(idx, "MAX_BYTES", 2**21)
    _write_idx(tmp_path, (2**14, 32, 32), b"\0" * 2**24, b"\0" * 2**14, packed=True)
    with pytest.raises(DataError, match="more than 2097152 bytes"):
        idx_images("MNIST", tmp_path, "test", download=False)


def test_labels_that_are_no_classes_are_refused(tmp_path):
    _write_idx(tmp_path, (2, 2, 2), bytes(8), b"\0\x0a")
    with pytest.raises(DataError, match="expected labels of the 10 classes of MNIST, from 0; got 0 to 10: fetch"):
        idx_images("MNIST", tmp_path, "test", download=False)


def test_images_without_pixels_are_refused(tmp_path):
    _write_idx(tmp_path, (2, 0, 0), b"", b"\0\1")
    with pytest.raises(DataError, match="expected an IDX file; got a damaged one"):
        idx_images("MNIST", tmp_path, "test", download=False)


# ---- folders of runs

METRICS = {"classifier": {"test_accuracy": 0.9}, "sources": {"ood/x": {"auroc": 0.8}}, "seed": 0}


@pytest.mark.parametrize(
    "overrides",
    [
        "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in itertools.pairwise("abcdefghijklmn")),
        "- !!python/object/apply:os.system ['true']\n",
        "- ${oc.env:HOME}: 1\n",
        "[" * 1200,
        "- [1, 2]\n",
    ],
)
def test_overrides_that_hydra_does_not_write_are_refused(tmp_path, overrides):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS))
    (tmp_path / ".hydra" / "overrides.yaml").write_text(overrides)
    with no_code(), pytest.raises(ValueError, match="expected what Hydra writes; got another file"):
        summarize(tmp_path)


@pytest.mark.parametrize("text", [deep(), json.dumps(METRICS | {"sources": 3}), '{"classifier": {"test_accuracy": 7}}'])
def test_metrics_that_no_run_writes_are_refused(tmp_path, text):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(ValueError, match="expected what a run writes; got another file"):
        summarize(tmp_path)
