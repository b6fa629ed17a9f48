"""`docs/attacks.md` names every attack and corruption."""

from pathlib import Path

import pytest

from trainers.main import CONF

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "attacks.md").read_text()


@pytest.mark.parametrize("group", ["attack", "corruption"])
def test_every_attack_and_corruption_is_named(group):
    names = {path.stem for path in (CONF / group).glob("*.yaml")} - {"digits", "all"}
    assert names
    assert {name for name in names if f"`{name}`" not in PAGE} == set()
