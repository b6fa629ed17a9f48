"""What the networks of `architectures.py` classify: images, descriptions of packages, rows of a table.

Everything is a tensor in memory. Of the training part every tenth input of the sorted list is held out: no network is
trained on it.
"""

import gzip
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from architectures_networks import CIFAR, DIGITS, FASHION, N_CLASSES, N_DIGITS, N_TOKENS, N_WORDS, TEXT
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchvision.io import ImageReadMode, decode_image

from gmm_torch.files import atomic_path

HELD_OUT_EVERY = 10
UNKNOWN_WORD, BEGIN, N_SPECIAL = 2, 1, 3
N_TEST_TEXTS, N_TRAINING_ROWS = 5000, 500


class Folders(NamedTuple):
    """Where the data is.

    Attributes:
        cifar: a folder with `train/<class>/*` and `test/<class>/*`.
        fashion: a folder with the four IDX files of Fashion-MNIST.
        mnist: a folder with the two IDX files of MNIST's test set.
        tiny: a folder of images of other things.
        text: a folder with `Packages`, `Translation-en` and `Translation-de` of a Debian release.
        given: a folder with the weights of the networks that are not trained here.
        cache: for everything that is made.
    """

    cifar: Path
    fashion: Path
    mnist: Path
    tiny: Path
    text: Path
    given: Path
    cache: Path


class Data(NamedTuple):
    """Inputs and labels: images are uint8 (N, C, H, W), tokens int64 (N, T), rows float32 (N, D).

    Attributes:
        train, train_labels: what a network may be trained on, and a detector fitted on.
        test, test_labels: new ones.
        names: of the classes.
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    names: list[str]


def idx(path: Path) -> Tensor:
    """The bytes of a gzipped IDX file."""
    data = gzip.decompress(path.read_bytes())
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(data[3])]
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape).copy())


def mnist_like(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28) uint8 and labels (N,) of "train" or "t10k"."""
    images, labels = (next(iter(sorted(folder.glob(f"{split}-{what}*")))) for what in ("images", "labels"))
    return idx(images)[:, None], idx(labels).long()


def files(folder: Path, names: str) -> Tensor:
    """Images of one size, (N, 3, H, W) uint8, in the order of their sorted paths."""
    paths = sorted(folder.glob(names))
    if not paths:
        raise SystemExit(f"expected images at {folder / names}; got none")
    return torch.stack([decode_image(str(path), mode=ImageReadMode.RGB) for path in paths])


def _class_folders(folder: Path) -> tuple[Tensor, Tensor, list[str]]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    parts = [files(folder / name, "*.jpg") for name in names]
    labels = torch.cat([torch.full((len(part),), i) for i, part in enumerate(parts)])
    return torch.cat(parts), labels, names


def _trained_on(n: int) -> Tensor:
    index = torch.arange(n)
    return index[index % HELD_OUT_EVERY != 0]


def load(name: str, folders: Folders) -> Data:
    """The data of a name, kept in the cache."""
    if name == DIGITS:
        return _digits()
    path = folders.cache / "data" / f"{name}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = {CIFAR: _cifar, FASHION: _fashion, TEXT: _text}[name](folders)
        tensors = {key: value.contiguous() for key, value in made._asdict().items() if key != "names"}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={"names": "\n".join(made.names)})
    stored = load_file(path)
    return Data(**stored, names=_names(path))


def _names(path: Path) -> list[str]:
    with safe_open(path, "pt") as file:
        return (file.metadata() or {})["names"].split("\n")


def _cifar(folders: Folders) -> Data:
    train, train_labels, names = _class_folders(folders.cifar / "train")
    test, test_labels, _ = _class_folders(folders.cifar / "test")
    kept = _trained_on(len(train))
    return Data(train[kept], train_labels[kept], test, test_labels, names)


def _fashion(folders: Folders) -> Data:
    train, train_labels = mnist_like(folders.fashion, "train")
    test, test_labels = mnist_like(folders.fashion, "t10k")
    kept = _trained_on(len(train))
    names = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]
    return Data(train[kept], train_labels[kept], test, test_labels, names)


# ---- tables


def _all_digits() -> tuple[Tensor, Tensor]:
    """Rows (N, 16) in [0, 1] in a fixed random order, and their digits.

    The table's 64 columns are averaged by fours, two by two pixels: from all of them hardly a digit is told wrongly.
    """
    points, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(points))
    x = torch.from_numpy(points[order] / 16).float().reshape(-1, 4, 2, 4, 2).mean((2, 4))
    return x.flatten(1), torch.from_numpy(labels[order]).long()


def _digits() -> Data:
    x, y = _all_digits()
    x, y = x[y < N_DIGITS], y[y < N_DIGITS]
    n = N_TRAINING_ROWS
    return Data(x[:n], y[:n], x[n:], y[n:], [str(i) for i in range(N_DIGITS)])


def unseen_digits() -> Tensor:
    """Rows of the digits that are of no class."""
    x, y = _all_digits()
    return x[y >= N_DIGITS]


# ---- text


class Package(NamedTuple):
    """What a Debian package says of itself."""

    source: str
    section: str
    description: str  # digest of the English description


def _packages(folder: Path) -> list[Package]:
    """One of each description."""
    found: dict[str, Package] = {}
    for paragraph in _paragraphs(folder / "Packages"):
        if "Section" in paragraph and "Description-md5" in paragraph:
            digest, name = paragraph["Description-md5"], paragraph["Package"]
            found.setdefault(digest, Package(paragraph.get("Source", name).split()[0], paragraph["Section"], digest))
    return sorted(found.values())


def _paragraphs(path: Path) -> Iterator[dict[str, str]]:
    """Fields of one line."""
    for paragraph in path.read_text(encoding="utf-8").split("\n\n"):
        yield dict(re.findall(r"^([\w-]+): (.*)$", paragraph, re.MULTILINE))


def _descriptions(path: Path) -> dict[str, str]:
    """Digest -> description, from a file of translations."""
    found = {}
    for paragraph in path.read_text(encoding="utf-8").split("\n\n"):
        match = re.search(r"^Description-md5: (\w+)\nDescription-\w+: (.*)", paragraph, re.MULTILINE | re.DOTALL)
        if match:
            found[match[1]] = match[2]
    return found


def words(text: str) -> list[str]:
    """In lower case; marks of punctuation count as words."""
    return re.findall(r"\w+|[^\w\s]", text.lower())[: N_TOKENS - 1]


def tokens(texts: Sequence[Sequence[str]], vocabulary: Mapping[str, int]) -> Tensor:
    """(N, T) int64."""
    out = torch.zeros(len(texts), N_TOKENS, dtype=torch.long)
    out[:, 0] = BEGIN
    for row, text in zip(out, texts, strict=True):
        numbers = [vocabulary.get(word, UNKNOWN_WORD) for word in text]
        row[1 : 1 + len(numbers)] = torch.tensor(numbers, dtype=torch.long)
    return out


class Corpus(NamedTuple):
    """Descriptions of packages, in words: of the largest sections, and of others.

    Attributes:
        train, train_labels, test, test_labels: by section; no source package has descriptions in both.
        sections: the classes.
        other_sections, german, code: what belongs to none.
    """

    train: list[list[str]]
    train_labels: list[int]
    test: list[list[str]]
    test_labels: list[int]
    sections: list[str]
    other_sections: list[list[str]]
    german: list[list[str]]
    code: list[list[str]]

    @property
    def vocabulary(self) -> dict[str, int]:
        """The commonest words of the training part."""
        counts = Counter(word for text in self.train for word in text)
        return {word: N_SPECIAL + i for i, (word, _) in enumerate(counts.most_common(N_WORDS - N_SPECIAL))}


def corpus(folder: Path) -> Corpus:
    """Read the package lists of a Debian release and the sources of Python's standard library."""
    packages = _packages(folder)
    english, german = (_descriptions(folder / f"Translation-{language}") for language in ("en", "de"))
    packages = [package for package in packages if package.description in english]
    # one description a source package: those of one source say nearly the same
    one = list({package.source: package for package in packages}.values())
    order = np.random.default_rng(0).permutation(len(one))
    one = [one[i] for i in order]
    sections = sorted(name for name, _ in Counter(package.section for package in one).most_common(N_CLASSES))
    inside = [package for package in one if package.section in sections]
    text = [words(english[package.description]) for package in inside]
    labels = [sections.index(package.section) for package in inside]
    n = N_TEST_TEXTS
    outside = [words(english[package.description]) for package in one if package.section not in sections]
    others = [words(german[package.description]) for package in one if package.description in german]
    return Corpus(text[n:], labels[n:], text[:n], labels[:n], sections, outside[:n], others[:n], _code(n))


def _code(n: int) -> list[list[str]]:
    """Stretches of Python's standard library, from random places."""
    text = [path.read_text(encoding="utf-8") for path in sorted(Path(os.__file__).parent.glob("*.py"))]
    generator = np.random.default_rng(0)
    lines = [line for each in text for line in each.splitlines() if line.strip()]
    return [words("\n".join(lines[i : i + 20])) for i in generator.integers(0, len(lines) - 20, n)]


def _text(folders: Folders) -> Data:
    found = corpus(folders.text)
    known = found.vocabulary
    kept = _trained_on(len(found.train))
    train, labels = tokens(found.train, known)[kept], torch.tensor(found.train_labels)[kept]
    return Data(train, labels, tokens(found.test, known), torch.tensor(found.test_labels), found.sections)


# ---- what belongs to no class


def outside(name: str, data: Data, folders: Folders, n: int) -> dict[str, Tensor]:
    """Column -> at most n inputs of another distribution than a network's data, like it in form."""
    makers = {CIFAR: _outside_cifar, FASHION: _outside_fashion, TEXT: _outside_text, DIGITS: _outside_digits}
    return makers[name](data, folders, n)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _outside_cifar(data: Data, folders: Folders, n: int) -> dict[str, Tensor]:
    g, test = _generator(), spread(data.test, n)
    fashion, mnist = (mnist_like(folder, "t10k")[0] for folder in (folders.fashion, folders.mnist))
    return {
        "tiny-imagenet": spread(files(folders.tiny, "*.png"), n),
        "fashion": _framed(spread(fashion, n)),
        "mnist": _framed(spread(mnist, n)),
        "uniform": torch.randint(0, 256, (n, 3, 32, 32), generator=g, dtype=torch.uint8),
        "one colour": torch.randint(0, 256, (n, 3, 1, 1), generator=g, dtype=torch.uint8).expand(-1, -1, 32, 32),
        "turned by 90": torch.rot90(test, 1, (2, 3)),
        "inverted": 255 - test,
    }


def _outside_fashion(data: Data, folders: Folders, n: int) -> dict[str, Tensor]:
    test, photographs = spread(data.test, n), load(CIFAR, folders).test
    gray = spread(photographs, n).float().mean(1, keepdim=True).round().to(torch.uint8)
    return {
        "mnist": spread(mnist_like(folders.mnist, "t10k")[0], n),
        "gray photographs": gray[:, :, 2:30, 2:30],
        "turned by 90": torch.rot90(test, 1, (2, 3)),
        "inverted": 255 - test,
        "uniform": torch.randint(0, 256, test.shape, generator=_generator(), dtype=torch.uint8),
    }


def _outside_text(data: Data, folders: Folders, n: int) -> dict[str, Tensor]:
    found = corpus(folders.text)
    known = found.vocabulary
    generator = np.random.default_rng(0)
    shuffled = [list(generator.permutation(text)) for text in found.test[:n]]
    made = {
        "other sections": found.other_sections,
        "German": found.german,
        "program code": found.code,
        "shuffled words": shuffled,
    }
    return {column: tokens(texts[:n], known) for column, texts in made.items()}


def _outside_digits(data: Data, folders: Folders, n: int) -> dict[str, Tensor]:
    g = _generator()
    permuted = torch.stack([row[torch.randperm(len(row), generator=g)] for row in data.test[:n]])
    return {
        "digits 8 and 9": unseen_digits()[:n],
        "permuted columns": permuted,
        "uniform": torch.rand(data.test[:n].shape, generator=g),
        "inverted": 1 - data.test[:n],
    }


def spread(x: Tensor, n: int) -> Tensor:
    """At most n rows, evenly spaced."""
    return x[torch.arange(min(n, len(x))) * len(x) // min(n, len(x))]


def _framed(x: Tensor) -> Tensor:
    """Gray images of 28 pixels as colour images of 32, within a black frame."""
    return nn.functional.pad(x, (2, 2, 2, 2)).expand(-1, 3, -1, -1)
