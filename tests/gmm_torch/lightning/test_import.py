"""The library alone needs none of what its rooms for others import."""

import subprocess
import sys

from tests.pages import ROOT


def test_importing_the_library_imports_no_lightning():
    found = "[name for name in ('lightning', 'pytorch_lightning', 'torchmetrics', 'sklearn') if name in sys.modules]"
    command = [sys.executable, "-c", f"import sys, gmm_torch; print({found})"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_what_a_page_or_an_example_imports_is_of_the_library():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").iterdir()]
    lines = {page.name: page.read_text(encoding="utf-8").splitlines() for page in pages if page.is_file()}
    found = [
        name
        for name, text in lines.items()
        if any(line.startswith(("from trainers", "import trainers")) for line in text)
    ]
    assert set(found) <= {"serving.md"}  # which embeds the application's own service
