"""Names for work: a hash of what it depends on."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainers.cache.foreign import code_of
from trainers.cache.sources import code_version, file_of

KEY_LENGTH = 24  # hexadecimal digits: 96 bits, enough for no two jobs to meet
# What shows on the screen and leaves no trace in the results.
SHOWN = ("enable_progress_bar", "enable_model_summary", "log_every_n_steps", "default_root_dir")


def key(kind: str, parts: Mapping[str, Any], code: Sequence[str] | None) -> str:
    """The name of a piece of work: hexadecimal digits, other ones when a part or the code changes.

    Args:
        kind: what is made.
        parts: what it is made from: plain values, lists and mappings, whose order doesn't matter. A string that is
            the path of a file stands for the file's content, and a `_target_` for its code, too.
        code: our modules that make it, see `code_version`; those of each `_target_` join them. None for all.
    """
    modules = None if code is None else tuple(sorted({*code, *_our_targets(parts)}))
    text = json.dumps([kind, code_version(modules), _with_contents(parts)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def without(parts: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The parts but for those that leave no trace in the results, and for `names`."""
    kept = {name: value for name, value in parts.items() if name not in names}
    if isinstance(kept.get("trainer"), Mapping):
        kept["trainer"] = {name: value for name, value in kept["trainer"].items() if name not in SHOWN}
    return kept


def _our_targets(value: Any) -> Iterator[str]:
    """The modules of our packages that hold what a `_target_`, however deep, names."""
    if isinstance(value, Mapping):
        target = value.get("_target_")
        names = target.split(".") if isinstance(target, str) else []
        modules = (".".join(names[:n]) for n in range(len(names), 0, -1))
        yield from [module for module in modules if file_of(module)][:1]
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _our_targets(each)


def _with_contents(value: Any) -> Any:
    if isinstance(value, Mapping):
        found = {str(name): _with_contents(each) for name, each in value.items()}
        target = value.get("_target_")
        return found | {"code of _target_": code_of(target)} if isinstance(target, str) else found
    if isinstance(value, list | tuple):
        return [_with_contents(each) for each in value]
    if isinstance(value, str) and 0 < len(value) < 1000 and "\n" not in value and Path(value).is_file():
        with open(value, "rb") as file:
            return {"file": hashlib.file_digest(file, "sha256").hexdigest()}
    return value
