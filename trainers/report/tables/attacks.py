"""Attacks at the operating point, in words and figures: for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from trainers.report.tables.results import BASELINE, percent, source_label

COLUMNS = ("attack", "images", "changed", "refused", "evaded", "AUROC", "softmax")
EVERY = "every attack"
CAPTION = (
    "images: attacked; changed: of which change class; refused (of those that change class), evaded (of the attacked "
    "images, those that end up wrong and accepted), AUROC of ours and of the softmax in %; every attack: of images "
    "that all of them were tried on, refused only if each that changes the class is; the attacks do not know the "
    "detector"
)


def attack_table(metrics: Mapping[str, Any]) -> Table:
    """The table for the terminal, one row an attack, and one for all of them together."""
    table = Table(caption=CAPTION, caption_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "attack" else "right", no_wrap=True)
    for row in attack_rows(metrics):
        table.add_row(*row)
    return table


def attack_rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The cells of the table."""
    sources = {source_label(name): each for name, each in metrics["sources"].items() if name.startswith("adversarial/")}
    if together := metrics.get("every_attack"):
        sources[EVERY] = together
    return [
        (
            label,
            str(each["n_attacked"]),
            str(each["n"]),
            percent(each["refusal_rate"]),
            percent(each["evasion_rate"]),
            percent(each["auroc"]),
            percent(each["baselines"].get(BASELINE, {}).get("auroc")),
        )
        for label, each in sources.items()
    ]


def every_attack_line(metrics: Mapping[str, Any]) -> str:
    """The last row as a sentence; empty where there are fewer than two attacks."""
    together = metrics.get("every_attack")
    if not together:
        return ""
    names = ", ".join(name.replace("_", " ") for name in together["attacks"])
    return (
        f"Of {together['n_attacked']} images that every attack ({names}) was tried on, {together['n']} change class "
        f"under at least one. {percent(together['refusal_rate'])} % of these are refused under each attack that "
        f"changes them; AUROC of the most typical one of each {percent(together['auroc'])}, softmax "
        f"{percent(together['baselines'].get(BASELINE, {}).get('auroc'))}."
    )
