"""Run every example and show what it prints in `examples/README.md`.

pip install -e '.[examples,export]'
python benchmarks/examples_page.py
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from pages import ROOT, fill

FOLDER = ROOT / "examples"
PAGE = FOLDER / "README.md"


def output(script: Path) -> str:
    """What a script prints, run in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", str(script)]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout.strip().replace(folder, "FOLDER")


def main() -> None:
    """All that the page names, in its order."""
    names = re.findall(r"^\| \[(\w+\.py)\]", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    parts = [f"`{name}`:\n\n```\n{output(FOLDER / name)}\n```" for name in names]
    fill(PAGE, "outputs", "\n\n".join(parts))


if __name__ == "__main__":
    main()
