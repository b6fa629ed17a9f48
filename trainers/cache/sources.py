"""The source files that a piece of work depends on."""

import ast
import functools
import hashlib
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

# Ours, by name: an import would make all of the library a part of each stage.
PACKAGES = {name: Path(str(find_spec(name).origin)).parent for name in ("gmm_torch", "trainers")}  # type: ignore[union-attr]
# What numbers and pictures come from; those that an extra brings may be missing.
REQUIREMENTS = (
    *("torch", "torchvision", "lightning", "torchmetrics", "numpy", "scipy", "scikit-learn", "pillow"),
    *("foolbox", "pyautoattack", "matplotlib", "jinja2", "hydra-core"),
)
KINDS = (".py", ".css", ".html", ".j2")


@functools.cache
def code_version(modules: Sequence[str] | None = None) -> str:
    """16 hexadecimal digits of source files, and of the versions of what they stand on.

    Args:
        modules: of our packages; with them counts all that they import from there. None for all files, style sheets
            and pages too.
    """
    found = sources(*modules) if modules is not None else _everything()
    digest = hashlib.sha256(repr(_versions()).encode())
    for name, path in sorted((_name_of(path), path) for path in found):
        digest.update(name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def sources(*modules: str) -> frozenset[Path]:
    """The files of some of our modules, and of those that they import, directly or through others.

    Importing a module runs the `__init__` of the rooms around it, so these count too; those of the two packages only
    where a name is taken from them. A module that looks for others by `pkgutil` imports its whole folder. What serves
    annotations alone, below `if TYPE_CHECKING`, does not count.

    Raises:
        ValueError: no such module.
    """
    left: set[Path] = set()
    for module in modules:
        file = file_of(module)
        if file is None:
            raise ValueError(f"expected a module of {' or '.join(PACKAGES)}; got {module!r}")
        left.add(file)
    found, known = set[Path](), set[str]()
    while left:
        found |= left
        imported = {path: names_imported(path.read_bytes()) for path in left}
        names = {room for each in imported.values() for name in each for room in _rooms(name)} - known
        known |= names
        beside = (each for path in left if "pkgutil" in imported[path] for each in path.parent.rglob("*.py"))
        left = {*filter(None, map(file_of, names)), *beside} - found
    return frozenset(found)


def file_of(module: str) -> Path | None:
    """Where the module of that name is; None for one that is not ours."""
    package, *names = module.split(".")
    if package not in PACKAGES:
        return None
    path = PACKAGES[package].joinpath(*names)
    files = (path / "__init__.py", path.with_name(f"{path.name}.py"))
    return next((file for file in files if file.is_file()), None)


def _rooms(name: str) -> Iterator[str]:
    """A module and the rooms around it, but for its package."""
    parts = name.split(".")
    return (".".join(parts[:n]) for n in range(min(2, len(parts)), len(parts) + 1))


@functools.cache
def names_imported(source: bytes) -> frozenset[str]:
    """Modules that a source imports, wherever in it; of `from a import b` both a and a.b, whatever b is."""
    names: set[str] = set()
    left: list[ast.AST] = [ast.parse(source)]
    while left:
        node = left.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):  # ruff keeps relative imports out
            names.update((node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)))
        left.extend(child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr))
    return frozenset(names)


@functools.cache
def _versions() -> list[tuple[str, str | None]]:
    return [(name, _version(name)) for name in REQUIREMENTS]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _everything() -> frozenset[Path]:
    return frozenset(path for folder in PACKAGES.values() for path in folder.rglob("*") if path.suffix in KINDS)


def _name_of(path: Path) -> str:
    return next(f"{name}/{path.relative_to(folder)}" for name, folder in PACKAGES.items() if folder in path.parents)
