"""Every reader of files that others may send, with what to damage and what it may raise."""

import gzip
import inspect
import io
import json
import os
import pickle
import random
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image
from rich.console import Console
from safetensors.torch import save
from torch import nn

from gmm_torch import FailureDetector, FileFormatError
from gmm_torch.conformal.conditional import ConditionalCalibration
from gmm_torch.conformal.mondrian import MondrianCalibration
from gmm_torch.detector.file import FORMAT, VERSION, digest, read_parts
from gmm_torch.scores import SCORES, make_score
from tests.faults.mutate import damaged, hostile_json
from tests.faults.watch import bounded_memory, no_code, no_hang
from trainers.classifiers.checkpoint import CheckpointError, load_weights, read_weights
from trainers.data.errors import DataError
from trainers.data.idx import idx_images
from trainers.data.image_files import decode, why_unreadable
from trainers.report.tables.jobs import summarize

Case = Mapping[str, bytes]
"""Files of a case: name to content."""


@dataclass(frozen=True)
class Parser:
    """A reader of files.

    Attributes:
        name: what is read.
        make: a case from a random generator.
        read: reads the files of the folder; raises AssertionError where what it got is no right answer.
        errors: what it may raise, with a message.
    """

    name: str
    make: Callable[[random.Random], Case]
    read: Callable[[Path], Any]
    errors: tuple[type[Exception], ...]


@dataclass
class Tally:
    """What became of the cases of a parser."""

    cases: int = 0
    refused: int = 0
    read: int = 0
    faults: list[str] = field(default_factory=list)


def fuzz(parser: Parser, n: int, seed: int, folder: Path) -> Tally:
    """Run n cases; a fault is an undeclared error, an error without a message, code that ran, or a wrong answer.

    Time and memory are bounded: what asks for more fails with an undeclared error.
    """
    tally = Tally()
    with bounded_memory():
        for i in range(n):
            case = parser.make(random.Random(f"{parser.name} {seed} {i}"))
            for name, content in case.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
            tally.cases += 1
            try:
                with no_hang(), no_code():
                    parser.read(folder)
                tally.read += 1
            except parser.errors as error:
                tally.refused += 1
                if not str(error):
                    tally.faults.append(f"case {i}: {type(error).__name__} without a message")
            except Exception as error:
                tally.faults.append(f"case {i}: {type(error).__name__}: {str(error)[:200]}")
            for name in case:
                (folder / name).unlink(missing_ok=True)
    return tally


# ---- detector


class Net(nn.Module):
    """A classifier small enough to be built ten thousand times."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).relu())


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def probes() -> torch.Tensor:
    """Five inputs, the first of which is NaN."""
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    x[0] = torch.nan
    return x


CALIBRATIONS = (None, MondrianCalibration(2), ConditionalCalibration(0.5))


def make_detector(score: str, calibration: Any = None) -> FailureDetector:
    x = torch.randn(240, 4, generator=torch.Generator().manual_seed(0))
    options = {"n_components": 2} if "n_components" in inspect.signature(SCORES[score]).parameters else {}
    detector = FailureDetector(net(), score=make_score(score, **options), calibration=calibration, alpha=0.1)
    labels = torch.arange(120) % 2
    return detector.fit(x[:120].split(60)).calibrate([(x[120:], labels)])


def damaged_detector(folder: Path) -> Parser:
    """Damaged bytes: refused, or the p-values of the whole file."""
    detector = make_detector("combined")
    detector.save(folder / "whole")
    whole, expected = (folder / "whole").read_bytes(), detector(probes())

    def read(folder: Path) -> None:
        verdict = FailureDetector.load(folder / "detector.safetensors", net())(probes())
        assert torch.equal(verdict.p_value, expected.p_value), "a damaged file gave other p-values"

    def make(rng: random.Random) -> Case:
        return {"detector.safetensors": damaged(whole, rng)}

    return Parser("detector: damaged bytes", make, read, (FileFormatError, ValueError))


def hostile_detector(folder: Path) -> Parser:
    """A description or tensors made to harm, in a file that is sound otherwise: refused, or a detector that works."""
    seeds = []
    for score in ("combined", "max_softmax", "log_likelihood", "class_conditional", "depth_consistency"):
        for calibration in CALIBRATIONS:
            make_detector(score, calibration).save(folder / "seed")
            seeds.append(read_parts(folder / "seed"))

    def make(rng: random.Random) -> Case:
        spec, stored = rng.choice(seeds)
        tensors = dict(stored)
        if rng.random() < 0.7:
            spec = hostile_json(json.loads(spec), rng)
        else:
            name = rng.choice(list(tensors))
            tensors[name] = hostile_tensor(tensors[name], rng)
        return {"detector.safetensors": sealed(spec, tensors)}

    def read(folder: Path) -> None:
        classifier = net()
        detector = FailureDetector.load(folder / "detector.safetensors", classifier)
        x = probes()
        verdict = detector(x)
        assert torch.equal(verdict.prediction, classifier(x).argmax(1))
        assert bool(((verdict.p_value > 0) & (verdict.p_value <= 1)).all()), "no p-value"
        assert not bool(verdict.accept[0]), "an input of NaN was accepted"
        assert all(str(detector.explain(x)[i]) for i in range(len(x)))

    return Parser("detector: hostile content", make, read, (FileFormatError, ValueError))


def sealed(spec: str, tensors: Mapping[str, torch.Tensor]) -> bytes:
    """A detector file that is sound but for what it says."""
    metadata = {"format": FORMAT, "version": str(VERSION), "spec": spec, "sha256": digest(spec, dict(tensors))}
    return save(dict(tensors), metadata)


def hostile_tensor(tensor: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """Another value, type or shape in place of a tensor."""
    act = rng.randrange(6)
    if act == 0:
        return tensor.to(rng.choice((torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool)))
    if act == 1:
        return tensor.new_zeros(tuple(rng.choice((0, 1, 2, 3, 7)) for _ in range(rng.randint(0, 4))))
    if act == 2 and tensor.dim():
        return torch.cat([tensor, tensor])
    if act == 3:
        return tensor[None]
    changed = tensor.clone().reshape(-1)
    if len(changed) and changed.dtype != torch.bool:
        huge = (torch.nan, torch.inf, 1e38, -1e38) if changed.is_floating_point() else (-1, 2**62, -(2**62), 5)
        changed[rng.randrange(len(changed))] = rng.choice(huge)
    return changed.reshape(tensor.shape)


# ---- classifier


def checkpoint(folder: Path) -> Parser:
    """Safetensors, zipped and old PyTorch files with damaged bytes, and pickles of other objects."""
    state = net().state_dict()
    torch.save(state, folder / "new.pt")
    torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": state, "epoch": 3, "optimizer_states": [{"lr": 0.1}]}, folder / "lightning.ckpt")
    sound = {name: (folder / name).read_bytes() for name in ("new.pt", "old.pt", "lightning.ckpt")}
    sound["weights.safetensors"] = save(state)

    def make(rng: random.Random) -> Case:
        name = rng.choice(list(sound))
        if rng.random() < 0.1:
            return {"weights" + Path(name).suffix: rng.choice(PICKLES)}
        return {"weights" + Path(name).suffix: damaged(sound[name], rng)}

    def read(folder: Path) -> None:
        (path,) = (path for path in folder.iterdir() if path.stem == "weights")
        module = Net()
        load_weights(module, read_weights(path), path)
        assert not any(bool(value.isnan().any()) for value in module.state_dict().values()), "NaN let in"

    return Parser("classifier checkpoint", make, read, (CheckpointError,))


class Harm:
    """Pickled, it calls something when it is read."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def _zipped_harm() -> bytes:
    file = io.BytesIO()
    torch.save({"weight": Harm(os.system, "true")}, file)
    return file.getvalue()


PICKLES = (
    *(pickle.dumps(Harm(os.system, "true"), protocol) for protocol in range(6)),
    pickle.dumps({"head.weight": Harm(eval, "1 + 1")}, 2),
    pickle.dumps(Harm(getattr, Harm, "call"), 2),
    pickle.dumps({"head.weight": [1, 2, 3]}, 2),
    _zipped_harm(),
    b"cos\nsystem\n(S'true'\ntR.",
)


# ---- images


def image(folder: Path) -> Parser:
    """Files of every format that a folder may hold, and of some that it may not."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    sound = []
    for kind, options in IMAGE_KINDS:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind, **options)
        sound.append(file.getvalue())

    def make(rng: random.Random) -> Case:
        return {"image.png": damaged(rng.choice(sound), rng)}

    def read(folder: Path) -> None:
        path = str(folder / "image.png")
        why_unreadable(path)
        found = decode(path, (3, 8, 8))
        assert found.shape == (3, 8, 8)
        assert found.dtype in (torch.uint8, torch.float32)

    return Parser("image", make, read, (DataError,))


def _turned() -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return exif.tobytes()


IMAGE_KINDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("PNG", {}),
    ("JPEG", {"exif": _turned()}),
    ("JPEG", {"progressive": True}),
    ("BMP", {}),
    ("PPM", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("WEBP", {}),
    ("GIF", {}),
    ("EPS", {}),
    ("ICO", {}),
    ("PCX", {}),
    ("TGA", {}),
)  # fmt: skip


# ---- IDX


def idx(folder: Path) -> Parser:
    """The two files of a split, gzipped or not."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 4), dtype=np.uint8)
    sound = {
        "t10k-images-idx3-ubyte": struct.pack(">IIII", 0x803, *pixels.shape) + pixels.tobytes(),
        "t10k-labels-idx1-ubyte": struct.pack(">II", 0x801, 6) + bytes(range(6)),
    }

    def make(rng: random.Random) -> Case:
        chosen = rng.choice(list(sound))
        files = dict(sound)
        if rng.random() < 0.5:
            files[chosen] = damaged(files[chosen], rng)
            return files
        packed = {name + ".gz": gzip.compress(content, 1) for name, content in files.items()}
        packed[chosen + ".gz"] = damaged(packed[chosen + ".gz"], rng)
        return packed

    def read(folder: Path) -> None:
        images = idx_images("MNIST", folder, "test", download=False)
        assert len(images) == len(images.targets)
        assert 0 <= int(images.targets.min()) <= int(images.targets.max()) < 10, "labels that are no classes"
        assert images[0][0].shape == images.image_shape

    return Parser("IDX", make, read, (DataError,))


# ---- what a run leaves behind


def run_folder(folder: Path) -> Parser:
    """`metrics.json` and Hydra's overrides of a run, as `task=summarize` reads them."""
    metrics = {"classifier": {"test_accuracy": 0.9}, "sources": {"ood/x": {"auroc": 0.8, "n": 3}}, "seed": 0}
    overrides = b"- data=digits\n- seed=3\n- '+x={a: 1}'\n"

    def make(rng: random.Random) -> Case:
        if rng.random() < 0.5:
            return {"0/metrics.json": hostile_json(metrics, rng).encode(), "0/.hydra/overrides.yaml": overrides}
        if rng.random() < 0.1:
            return {"0/metrics.json": json.dumps(metrics).encode(), "0/.hydra/overrides.yaml": rng.choice(YAMLS)}
        hostile = damaged(overrides, rng)
        return {"0/metrics.json": json.dumps(metrics).encode(), "0/.hydra/overrides.yaml": hostile}

    def read(folder: Path) -> None:
        summary = summarize(folder)
        assert len(summary.jobs) == 1
        for number in summary.jobs[0].numbers.values():
            assert number is None or 0 <= number <= 1, f"no share: {number}"
        Console(file=io.StringIO(), width=200).print(summary.table())

    return Parser("run folder", make, read, (ValueError,))


YAMLS = (
    b"- !!python/object/apply:os.system ['true']\n",
    b"- !!python/name:os.system\n",
    b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (c, c, c - 1, c - 1) for c in range(98, 123)),
    b"[" * 5000 + b"]" * 5000,
    b"- ${oc.env:HOME}\n",
    b"- ${x}\n",
    b"",
    b"{}",
    b"3",
    b"- [1, 2]\n- {a: 3}\n- null\n",
)


PARSERS: tuple[Callable[[Path], Parser], ...] = (
    damaged_detector, hostile_detector, checkpoint, image, idx, run_folder,
)  # fmt: skip
