"""The examples in docstrings give what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

import gmm_torch

ROOT = Path(gmm_torch.__file__).parent
MODULES = [
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
    for path in sorted(ROOT.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


def test_the_main_classes_have_examples():
    assert {"gmm_torch.mixture.mixture", "gmm_torch.detector.detector", "gmm_torch.conformal.p_values"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_are_right(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.DONT_ACCEPT_BLANKLINE)
    assert result.failed == 0
    assert result.attempted > 0
    skipped = [
        line for line in Path(importlib.import_module(name).__file__).read_text().splitlines() if "+SKIP" in line
    ]
    assert not skipped
