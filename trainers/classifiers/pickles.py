"""What a PyTorch file would make of the machine, looked at before `torch.load` reads it.

`torch.load(weights_only=True)` runs no code of a file, but a few bytes can still ask it for any amount of memory
(`bytearray(n)`, packed archives) or time (tuples that hold each other twice over, hashed as keys of a dictionary).
"""

import argparse
import io
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

_MODULES = ("torch", "torch._tensor", "torch._utils", "torch.nn.parameter", "torch.serialization", "torch.storage")
_NAMES = ("collections OrderedDict", "__builtin__ set", "builtins set", "argparse Namespace")
INERT: list[Any] = [argparse.Namespace]  # a record of values, as which scripts keep their options
_N_PICKLES = 5  # of a file from before PyTorch 1.6: two numbers, the writer's machine, the content, the storages' keys
# How much larger than its pickle an object may be once everything that is referred to twice is counted twice.
_EXPANSION = 1000


def check_pickles(path: Path) -> None:
    """Raise unless a PyTorch file can be read with time and memory in proportion to its size.

    Raises:
        ValueError: it asks for more, or for functions that no tensor needs; or it is damaged.
    """
    for content in _pickles(path):
        size, expanded = content.seek(0, io.SEEK_END), 0
        content.seek(0)
        for _ in range(1 if isinstance(content, io.BytesIO) else _N_PICKLES):
            expanded = max(expanded, _expanded(content))
        if expanded > _EXPANSION * size:
            raise ValueError("objects within objects that grow without bounds")


def is_torchscript(path: Path) -> bool:
    """Whether a file is a program of TorchScript; False of a file that is not there or damaged."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError):  # damaged: what reads it says how
        return False


def _pickles(path: Path) -> Iterator[IO[bytes]]:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            yield file
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("a compressed archive, which torch.save never writes")
        for entry in entries:
            if entry.filename.endswith(".pkl"):
                yield io.BytesIO(archive.read(entry))


def _expanded(file: IO[bytes]) -> int:
    """Number of parts of the largest object of a pickle, by running it on sizes in place of objects."""
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    largest = 0
    for code, argument, _ in pickletools.genops(file):
        if code.name in ("GLOBAL", "STACK_GLOBAL", "INST"):
            name = str(argument)
            if name not in _NAMES and name.partition(" ")[0] not in _MODULES:
                raise ValueError(f"it asks for {name.replace(' ', '.')}")
        if code.name == "MARK":
            marks.append(len(stack))
        elif code.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif code.name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument or 0)])
        elif code.name != "STOP":
            n_taken = len(stack) - marks.pop() if pickletools.markobject in code.stack_before else 0
            n_taken += sum(kind not in (pickletools.markobject, pickletools.stackslice) for kind in code.stack_before)
            taken = [stack.pop() for _ in range(n_taken)]
            stack.extend([1 + sum(taken)] * len(code.stack_after))
        largest = max(largest, stack[-1] if stack else 0)
    return largest
