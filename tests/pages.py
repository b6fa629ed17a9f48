"""What the documents say, taken apart: their code blocks, and the commands in them."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SHELL = ("sh", "bash", "")


class Block(NamedTuple):
    """One fenced block of a page."""

    language: str
    title: str  # the file that it is meant to be, or nothing
    text: str


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = re.findall(r'^```(\w*)(?: title="([^"]*)")?\n(.*?)^```$', page, re.MULTILINE | re.DOTALL)
    return [Block(*each) for each in found]


def commands(page: str) -> list[list[str]]:
    """The words of every command in the page's shell blocks, without comments; lines that go on are joined."""
    text = "\n".join(block.text for block in blocks(page) if block.language in SHELL)
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]
