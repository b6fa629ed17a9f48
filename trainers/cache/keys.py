"""Names for work: a hash of what it depends on."""

import functools
import hashlib
import importlib.util
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import gmm_torch
import trainers

KEY_LENGTH = 24  # hexadecimal digits: 96 bits, enough for no two jobs to meet
PACKAGES = ("torch", "torchvision", "lightning", "foolbox", "scikit-learn")
# What shows on the screen and leaves no trace in the results.
SHOWN = ("enable_progress_bar", "enable_model_summary", "log_every_n_steps", "default_root_dir")


@functools.cache
def code_version() -> str:
    """16 hexadecimal digits of the source of both packages and of the versions of what they stand on."""
    digest = hashlib.sha256()
    for package in (gmm_torch, trainers):
        folder = Path(package.__path__[0])
        for path in sorted(folder.rglob("*.py")):
            digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    digest.update(repr([(name, version(name)) for name in PACKAGES]).encode())
    return digest.hexdigest()[:16]


def key(kind: str, parts: Mapping[str, Any]) -> str:
    """The name of a piece of work.

    Args:
        kind: what is made.
        parts: what it is made from: plain values, lists and mappings, whose order doesn't matter. A string that is
            the path of a file stands for the file's content, and a `_target_` for the code of its package, too.

    Returns:
        hexadecimal digits, other ones when a part or the code changes.
    """
    text = json.dumps([kind, code_version(), _with_contents(parts)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def without(parts: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The parts but for those that leave no trace in the results, and for `names`."""
    kept = {name: value for name, value in parts.items() if name not in names}
    if isinstance(kept.get("trainer"), Mapping):
        kept["trainer"] = {name: value for name, value in kept["trainer"].items() if name not in SHOWN}
    return kept


def _with_contents(value: Any) -> Any:
    if isinstance(value, Mapping):
        found = {str(name): _with_contents(each) for name, each in value.items()}
        target = value.get("_target_")
        return found | {"code of _target_": _code_of(target)} if isinstance(target, str) else found
    if isinstance(value, list | tuple):
        return [_with_contents(each) for each in value]
    if isinstance(value, str) and 0 < len(value) < 1000 and "\n" not in value and Path(value).is_file():
        with open(value, "rb") as file:
            return {"file": hashlib.file_digest(file, "sha256").hexdigest()}
    return value


def _code_of(target: str) -> str | None:
    """What tells one state of the package of an import path from another: its version, or the content of its files.

    None for our own packages, which `code_version` stands for, and for one that can't be found.
    """
    package = target.partition(".")[0]
    if package in (gmm_torch.__name__, trainers.__name__):
        return None
    try:
        return version(package)
    except PackageNotFoundError:
        pass
    spec = importlib.util.find_spec(package) if package else None
    if spec is None:
        return None
    folders = spec.submodule_search_locations
    files = (
        [path for folder in folders for path in Path(folder).rglob("*.py")] if folders else [Path(spec.origin or "")]
    )
    digest = hashlib.sha256()
    for path in sorted(path for path in files if path.is_file()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]
