"""A mistyped key ends the command with the key that is meant, behind what Hydra says of it."""

import re

import pytest

import trainers.main


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["checkpont=x", "task=score"], "checkpont: expected a key .*: did you mean checkpoint\\?"),
        (["-m", "mixture.n_componets=1,2"], "mixture.n_componets: expected .* did you mean mixture.n_components\\?"),
        (["zzzqqq=3"], "Set the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace."),
    ],
)
def test_the_last_line_names_what_is_meant_where_something_is_close(words, hint, monkeypatch, capfd):
    monkeypatch.setattr("sys.argv", ["gmm-torch", *words])
    monkeypatch.setattr(trainers.main, "end_with_the_reader", lambda: None)
    with pytest.raises(SystemExit) as end:
        trainers.main.command()
    assert end.value.code == 1
    *before, last = capfd.readouterr().err.strip().splitlines()
    assert before[0].startswith("Could not override")
    assert re.fullmatch(hint, last)
