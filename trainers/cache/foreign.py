"""Code that is not ours, which a `_target_` names."""

import hashlib
import sys
import sysconfig
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path

from trainers.cache.sources import PACKAGES, code_version, file_of, names_imported

STANDARD = Path(sysconfig.get_path("stdlib"))
INSTALLED = {"site-packages", "dist-packages"}


def code_of(target: str) -> str | None:
    """What tells one state of the code of an import path from another.

    Of an installed package its version; of one in a working folder, installed in place or not, the content of its
    files, of those of other such packages that it imports, and of our modules that they import.

    None for our own modules, at which `code_version` looks, and for a package that can't be found.
    """
    package, *names = target.split(".")
    if any(file_of(".".join([package, *names[:n]])) for n in range(1, len(names) + 1)):
        return None
    files = _files(package)
    if files is None or (not files and package in PACKAGES):
        return None
    if not files:
        return _installed_version(package)
    digest, ours, seen, left = hashlib.sha256(), set(), {package}, list(files)
    while left:
        path = left.pop(0)
        source = path.read_bytes()
        digest.update(path.name.encode() + source)
        for name in sorted(names_imported(source)):
            first = name.partition(".")[0]
            if file_of(name):
                ours.add(name)
            elif first not in seen:
                seen.add(first)
                left += _files(first) or []
    if ours:
        digest.update(code_version(tuple(sorted(ours))).encode())
    return digest.hexdigest()[:16]


@cache  # what a process has imported it keeps
def _installed_version(package: str) -> str | None:
    if package in sys.stdlib_module_names:
        return None
    try:
        return version(package)
    except PackageNotFoundError:  # its distribution has another name, for which the files of all have to be read
        found = packages_distributions().get(package, ())
        return ", ".join(f"{name} {version(name)}" for name in sorted({*found})) or None  # several share a namespace


def _files(package: str) -> list[Path] | None:
    """The sources of a package in a working folder; none of an installed one, None where there is no such package.

    Of `trainers` those of a user's own package of that name, which are found beside ours.
    """
    try:
        spec = find_spec(package) if package else None
    except ValueError:  # of what was put among the modules without one
        spec = None
    if spec is None:
        return None
    ours = PACKAGES.get(package)
    folders = [Path(folder) for folder in spec.submodule_search_locations or () if Path(folder) != ours]
    origin = Path(spec.origin) if spec.has_location and spec.origin and not ours else None
    places = folders or ([origin] if origin else [])
    if any(INSTALLED & {*place.parts} or place.is_relative_to(STANDARD) for place in places):
        return []
    return sorted(path for place in places for path in (place.rglob("*.py") if folders else [place]) if path.is_file())
