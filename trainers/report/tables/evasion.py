"""The evasion curves of a run in words and figures."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.table import Table

from trainers.report.tables.results import BASELINE, MISSING, percent

UNDEFENDED, STATIC, BEST = "none", "pgd", "any"


class Row(NamedTuple):
    """One curve: what is attacked, by what, and a cell for each budget."""

    defence: str
    attack: str
    cells: list[str]


def evasion_rows(metrics: Mapping[str, Any]) -> list[Row]:
    """One a curve; cells in per cent, those that decide about a defence with their interval."""
    rows = []
    for curve in metrics["evasion"]["curves"]:
        cells = [_cell(point, curve["attack"] == BEST) for point in curve["points"]]
        rows.append(Row(defence_label(curve["defence"]), attack_label(curve), cells))
    return rows


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


def evasion_table(metrics: Mapping[str, Any]) -> Table:
    """For the terminal: wrong and accepted images in per cent, by budget."""
    table = Table(caption=caption(metrics), caption_justify="left")
    for column in ("defence", "attack"):
        table.add_column(column, no_wrap=True)
    for epsilon in budgets(metrics):
        table.add_column(budget_label(epsilon), justify="right")
    for row in evasion_rows(metrics):
        table.add_row(row.defence, row.attack, *row.cells)
    table.add_section()
    table.add_row("AUROC", "pgd, not knowing it", *auroc_row(metrics))
    return table


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
