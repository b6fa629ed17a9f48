"""Nobody waits for a library that is not needed yet, or is told to import what is the application's own."""

import subprocess
import sys

import pytest

from tests.pages import ROOT

HEAVY = {
    "foolbox",
    "lightning",
    "matplotlib",
    "pandas",
    "pytorch_lightning",
    "scipy.optimize",
    "scipy.signal",
    "scipy.sparse",
    "scipy.special",
    "scipy.stats",
    "sklearn",
    "torch._dynamo",
    "torchmetrics",
    "torchvision",
    "transformers",
}
TELL = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); "
COMMANDS = {
    "the library": (["import gmm_torch"], HEAVY, {"torch", "gmm_torch.conformal.mondrian"}),
    "help": (
        ["from gmm_torch_command import main; main()", "--help"],
        HEAVY | {"numpy", "torch"},
        {"hydra", "trainers"},
    ),
    "a mistake": (["from trainers.main import main; main()", "seed=abc"], HEAVY, {"torch", "trainers.run.job"}),
}


@pytest.mark.parametrize(("command", "left_out", "needed"), COMMANDS.values(), ids=COMMANDS)
def test_no_heavy_module_is_imported_before_it_is_used(command, left_out, needed, tmp_path):
    code, *arguments = command
    run = [sys.executable, "-c", TELL + code, *arguments]
    imported = set(subprocess.run(run, capture_output=True, text=True, cwd=tmp_path).stderr.split())
    assert imported >= needed
    assert sorted(imported & left_out) == []


def test_what_a_page_or_an_example_imports_is_of_the_library():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").iterdir()]
    lines = {page.name: page.read_text(encoding="utf-8").splitlines() for page in pages if page.is_file()}
    found = [
        name
        for name, text in lines.items()
        if any(line.startswith(("from trainers", "import trainers")) for line in text)
    ]
    assert set(found) <= {"serving.md"}  # which embeds the application's own service
