"""The wheel, as the image of `deploy/Dockerfile` has it."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.pages import ROOT

DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions: word and argument, lines joined."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line]


def told(word: str) -> list[str]:
    return [argument for each, argument in instructions() if each == word]


def copies() -> list[tuple[str, str]]:
    """What the first stage copies from the repository, and where to."""
    lines = [argument.split() for argument in told("COPY")[:-1]]
    return [(source, target) for *sources, target in lines for source in sources]


def built_wheel(folder: Path) -> Path:
    """The first stage, without a daemon: its COPY and RUN lines as they stand, in an empty folder."""
    for source, target in copies():
        path = ROOT / source
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, folder / (target if path.is_dir() else source))
    build = told("RUN")[0].replace("/wheels", str(folder / "wheels"))
    assert build.startswith("pip wheel")
    subprocess.run([sys.executable, "-m", *shlex.split(build), "--quiet"], cwd=folder, check=True)
    (wheel,) = (folder / "wheels").glob("*.whl")
    return wheel
