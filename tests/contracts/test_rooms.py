"""Imports point one way: from a room of the house to the rooms that stand before it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pages import ROOT

# Every room, and every file at a root, after all that it may import. `docs/architecture.md` says what each holds.
ROOMS = [
    "gmm_torch.errors",
    "gmm_torch.devices",
    "gmm_torch.distributed",
    "gmm_torch.files",
    "gmm_torch.registry",
    "gmm_torch.checks",
    "gmm_torch.mixture",
    "gmm_torch.features",
    "gmm_torch.evaluation",
    "gmm_torch.conformal",
    "gmm_torch.scores",
    "gmm_torch.detector",
    "gmm_torch.evaluation.detection",
    "gmm_torch.pipelines",
    "gmm_torch.sklearn",
    "gmm_torch.lightning",
    "gmm_torch",
    "trainers.data",
    "trainers.classifiers",
    "trainers.attacks",
    "trainers.attacks.adaptive",
    "trainers.records",
    "trainers.modules",
    "trainers.callbacks",
    "trainers.cache",
    "trainers.report.tables",
    "trainers.run",
    "trainers.scoring",
    "trainers.evaluation",
    "trainers.report.figures",
    "trainers.report",
    "trainers.serve",
    "trainers.tasks",
    "trainers.main",
    "trainers",
    "gmm_torch_command",
    "gmm_torch.__main__",
]
ONLY = {
    "lightning": ("gmm_torch.lightning", "trainers"),
    "hydra": ("trainers",),
    "sklearn": ("gmm_torch.sklearn", "trainers"),
}
"""Package -> the rooms that may import it."""

ROOTS = ("gmm_torch", "trainers")
FILES = [
    *(path.relative_to(ROOT) for name in ROOTS for path in sorted((ROOT / name).rglob("*.py"))),
    Path("gmm_torch_command.py"),
]


def module_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path) for path in FILES}


def within(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def room_of(module: str) -> str:
    return max((room for room in ROOMS if within(module, room)), key=len)


def imports(source: str) -> Iterator[str]:
    """Modules that a source imports when it is imported or run; not those that only a type checker reads."""
    tree = ast.parse(source)
    tree.body = [
        each for each in tree.body if not (isinstance(each, ast.If) and ast.unparse(each.test) == "TYPE_CHECKING")
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in names)


def wrong_arrows(module: str, source: str) -> list[str]:
    """Imports of a module that run against the order of the rooms."""
    own = ROOMS.index(room_of(module))
    found = [name for name in imports(source) if name in MODULES]
    return [name for name in found if ROOMS.index(room_of(name)) > own]


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_run_from_a_room_to_those_before_it(path):
    source = (ROOT / path).read_text(encoding="utf-8")
    assert wrong_arrows(module_of(path), source) == []
    for package, rooms in ONLY.items():
        if not any(within(module_of(path), room) for room in rooms):
            assert package not in {name.partition(".")[0] for name in imports(source)}


def test_an_arrow_that_runs_back_is_found():
    back = "def later():\n    from gmm_torch.scores.combined import Combined\n"
    assert wrong_arrows("gmm_torch.mixture.em", back) == ["gmm_torch.scores.combined"]
    assert wrong_arrows("gmm_torch.scores.combined", "import gmm_torch.mixture.sampling") == []
    assert wrong_arrows("gmm_torch.features.layers", "from gmm_torch.scores import base") == ["gmm_torch.scores.base"]


def test_every_room_stands_and_no_file_is_homeless():
    assert len(set(ROOMS)) == len(ROOMS)
    assert set(ROOMS) <= MODULES
    assert [path.name for path in FILES if path.parent == Path("trainers")] == ["__init__.py", "main.py"]
