"""The report of adaptive attacks: one self-contained HTML page that opens offline."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainers.report.figures.evasion import evasion
from trainers.report.gallery import data_uri
from trainers.report.svg import inline_svg
from trainers.report.tables.evasion import (
    BEST,
    STATIC,
    UNDEFENDED,
    attack_label,
    budget_label,
    defence_label,
    evasion_table,
    find_points,
)
from trainers.report.tables.text import BASELINE, percent, percent_range
from trainers.report.template import write_page

LEAD = (
    "The attacker knows classifier, detector and threshold, follows the gradients of both through every view, and wins "
    "with an image that the classifier gets wrong and the detector accepts."
)
MAJORITY = 0.5  # evasion rate from which the headline speaks of most images


class Pair(NamedTuple):
    """A clean image and what an attack made of it; images (H, W, 1 or 3) uint8."""

    clean: NDArray[np.uint8]
    changed: NDArray[np.uint8]
    truth: str
    prediction: str
    p_value: float
    epsilon: float
    attack: str


def write_evasion_report(metrics: Mapping[str, Any], pairs: Sequence[Pair], path: Path | str) -> None:
    """Write the page, of the metrics of the task `adaptive` and images that evaded."""
    found = metrics["evasion"]
    curves = {
        "undefended": find_points(metrics, UNDEFENDED, BEST),
        "static": find_points(metrics, found["defence"], STATIC),
        "softmax": find_points(metrics, BASELINE, BEST) if found["defence"] != BASELINE else [],
        "adaptive": find_points(metrics, found["defence"], BEST),
    }
    heading = "Evasion against the budget"
    write_page(
        "evasion.html.j2",
        path,
        title=f"{metrics['title']}: adaptive attacks",
        headline=headline(metrics),
        sentences=[LEAD],
        heading=heading,
        figure=inline_svg(evasion(curves), "evasion", heading),
        table=evasion_table(metrics),
        unrestricted=[
            (attack_label(curve), defence_label(curve["defence"]), percent(curve["unrestricted"]))
            for curve in found["curves"]
            if curve["unrestricted"] is not None and curve["attack"] != BEST
        ],
        warnings=found["warnings"],
        attacks=[
            (name.replace("_", " "), ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in settings.items()))
            for name, settings in found["attacks"].items()
        ],
        pairs=[
            pair._asdict()
            | {
                "clean": data_uri(pair.clean),
                "changed": data_uri(pair.changed),
                "p_value": f"{pair.p_value:.3f}",
                "epsilon": budget_label(pair.epsilon),
                "attack": pair.attack.replace("_", " "),
            }
            for pair in pairs
        ],
        versions=metrics["versions"],
    )


def headline(metrics: Mapping[str, Any]) -> str:
    """What the curve shows, in a sentence; never more than it shows."""
    points = find_points(metrics, metrics["evasion"]["defence"], BEST)
    for point in points:
        if point["rate"] >= MAJORITY:
            return (
                f"Whoever knows the detector gets {percent(point['rate'], 0)} % of the images past it with changes of "
                f"{budget_label(point['epsilon'])}."
            )
    last = points[-1]
    return (
        f"Up to {budget_label(last['epsilon'])} these attacks got {percent(last['rate'], 0)} % of the images past the "
        f"detector; stronger ones may get more (95 % interval for these: {percent_range(last['interval'], 0)} %)."
    )
