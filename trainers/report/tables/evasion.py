"""Evasion of the detector by attacks that know it."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainers.report.tables.format import TextTable
from trainers.report.tables.text import BASELINE, MISSING, percent

UNDEFENDED, STATIC, BEST = "none", "pgd", "any"


def auroc_row(metrics: Mapping[str, Any]) -> list[str]:
    """AUROC of the detector on the images of the attack that does not know it, in per cent, by budget."""
    by_budget = {s.get("epsilon"): s["auroc"] for s in metrics["sources"].values()}
    return [percent(by_budget.get(epsilon)) for epsilon in budgets(metrics)]


def budgets(metrics: Mapping[str, Any]) -> list[float]:
    """In pixel values of [0, 1], ascending."""
    return [point["epsilon"] for point in metrics["evasion"]["curves"][0]["points"]]


def budget_label(epsilon: float) -> str:
    """1/255 as "1/255"."""
    return f"{255 * epsilon:.3g}/255"


def defence_label(name: str) -> str:
    """A defence in plain words."""
    return {UNDEFENDED: "no detector", BASELINE: "largest softmax"}.get(name, name.replace("_", " "))


def attack_label(curve: Mapping[str, Any]) -> str:
    """An attack in plain words."""
    if curve["defence"] == UNDEFENDED:
        return "all that follow"
    return {STATIC: "pgd, not knowing it", BEST: "best of all"}.get(curve["attack"], curve["attack"].replace("_", " "))


def find_points(metrics: Mapping[str, Any], defence: str, attack: str) -> Sequence[Mapping[str, Any]]:
    """The points of a curve; none where there is no such curve."""
    for curve in metrics["evasion"]["curves"]:
        if (curve["defence"], curve["attack"]) == (defence, attack):
            return curve["points"]
    return []


def evasion_table(metrics: Mapping[str, Any]) -> TextTable:
    """A row a curve: wrong and accepted images in per cent, by budget; the AUROC of the detector below."""
    rows = []
    for curve in metrics["evasion"]["curves"]:
        cells = [_cell(point, curve["attack"] == BEST) for point in curve["points"]]
        rows.append((defence_label(curve["defence"]), attack_label(curve), *cells))
    n = len(rows)
    rows.append(("AUROC", "pgd, not knowing it", *auroc_row(metrics)))
    columns = ("defence", "attack", *map(budget_label, budgets(metrics)))
    return TextTable(columns, rows, caption(metrics), left=2, sections=(n - 1,))


def caption(metrics: Mapping[str, Any]) -> str:
    """What the numbers rest on."""
    found = metrics["evasion"]
    alarms = "; ".join(
        f"false alarms of {defence_label(name)} {percent(each['rate'])} %"
        for name, each in found["false_alarms"].items()
    )
    return (
        f"wrong and accepted, in % of {found['n_attacked']} images that were classified rightly; alpha "
        f"{metrics['alpha']:g}; {alarms}; test accuracy {percent(metrics['classifier']['test_accuracy'])} %; seed "
        f"{metrics['seed']}; {metrics['device']}"
    )


def _cell(point: Mapping[str, Any], with_interval: bool) -> str:
    rate = percent(point["rate"]) if point["n"] else MISSING
    if not with_interval or not point["n"]:
        return rate
    low, high = (percent(end, 0) for end in point["interval"])
    return f"{rate} ({low}–{high})"
