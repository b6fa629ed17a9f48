from rich.console import Console

from trainers.report.tables.format import TextTable


def test_a_table_says_the_same_in_the_terminal_and_in_markdown():
    table = TextTable(("who|what", "n"), [("a|b", "1"), ("c", "22")], "two rows", bold={(1, 1)}, sections=(0,))
    assert table.markdown().splitlines() == [
        "| who&#124;what | n |", "| --- | ---: |", "| a&#124;b | 1 |", "| c | **22** |", "", "two rows",
    ]  # fmt: skip
    console = Console(width=40, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table.terminal())
    lines = console.export_text().splitlines()
    assert lines[1].split() == ["┃", "who|what", "┃", "n", "┃"]
    assert lines[4].startswith("├")  # below the first row
    assert lines[-1].strip() == "two rows"
