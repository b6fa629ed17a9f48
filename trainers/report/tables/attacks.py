"""Attacks, one by one, together, and at growing budgets."""

from collections.abc import Mapping
from typing import Any

from trainers.report.tables.format import TextTable
from trainers.report.tables.text import epsilon_text, number, of_softmax, percent, source_label

ATTACKS = ("attack", "images", "changed", "refused", "evaded", "AUROC", "softmax")
EVERY = "every attack"
ATTACKS_CAPTION = (
    "images: attacked; changed: of which change class; refused (of those that change class), evaded (of the attacked "
    "images, those that end up wrong and accepted), AUROC of ours and of the softmax in %; every attack: images tried "
    "by all attacks, counted as refused if every attack that changed the class was refused; the attacks do not know "
    "the detector"
)
BUDGETS = ("attack", "epsilon", "success", "Linf", "L2", "s", "AUROC", "softmax", "refused", "evaded")
BUDGETS_CAPTION = (
    "success, AUROC of ours and of the softmax, refused (of the successes), evaded (of the attacked images, those that "
    "end up wrong and accepted) in %; Linf and L2: median perturbation; s: seconds an image; the attack does not know "
    "the detector"
)


def attack_table(metrics: Mapping[str, Any]) -> TextTable:
    """A row an attack, and one for all of them together."""
    sources = {source_label(name): each for name, each in metrics["sources"].items() if name.startswith("adversarial/")}
    if together := metrics.get("every_attack"):
        sources[EVERY] = together
    rows = [
        (
            label,
            str(each["n_attacked"]),
            str(each["n"]),
            percent(each["refusal_rate"]),
            percent(each["evasion_rate"]),
            percent(each["auroc"]),
            percent(of_softmax(each)),
        )
        for label, each in sources.items()
    ]
    return TextTable(ATTACKS, rows, ATTACKS_CAPTION, wraps=False)


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
        f"{percent(of_softmax(together))}."
    )


def budget_table(metrics: Mapping[str, Any]) -> TextTable:
    """A row a budget."""
    rows = [
        (
            name.replace("_", " "),
            epsilon_text(point["epsilon"]),
            percent(point["success_rate"]),
            number(point["median_linf"], 2),
            number(point["median_l2"], 2),
            number(point["seconds_per_image"], 2),
            percent(point["auroc"]),
            percent(of_softmax(point)),
            percent(point["refusal_rate"]),
            percent(point["evasion_rate"]),
        )
        for name, points in metrics["sweeps"].items()
        for point in points
    ]
    counts = ", ".join(
        f"{name}: {points[0]['n_attacked']} images attacked" for name, points in metrics["sweeps"].items()
    )
    return TextTable(BUDGETS, rows, f"{BUDGETS_CAPTION}; {counts}", wraps=False, padding=0)  # ten columns
