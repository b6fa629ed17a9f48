"""The tables of `docs/guarantees.md`, from `benchmarks/results/guarantees.json`; `guarantees.py` calls it.

The page shows the scores of real images where those of the synthetic distributions say the same; all are in the JSON.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pages

PAGE = pages.ROOT / "docs" / "guarantees.md"
ADJUSTMENTS = {
    "none": "none",
    "fixed_alpha": "`conditional_alpha`",
    "simes": "Simes",
    "dkw": "DKW",
    "berk_jones": "Berk and Jones",
}


def percent(value: float | None, digits: int = 1) -> str:
    """In per cent."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def span(interval: Iterable[float], digits: int = 1) -> str:
    """An interval of rates, in per cent."""
    return " to ".join(percent(min(1, max(0, value)), digits) for value in interval)


def ranged(found: Mapping[str, Any], digits: int = 1) -> str:
    """A rate or a mean with its interval, in per cent."""
    return f"{percent(found.get('rate', found.get('mean')), digits)} ({span(found['interval'], digits)})"


def markdown(header: str, rows: Iterable[Iterable[str]]) -> str:
    """A table, its first column text."""
    return pages.table([each.strip() for each in header.split("|")], [list(row) for row in rows])


def setup(result: Mapping[str, Any]) -> str:
    """What the figures rest on."""
    tests = result["tests"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return (
        f"Population: {result['n_population']:,} digits, of which the network gets {percent(result['error_rate'])} % "
        f"wrong. Failures, where a table has them: means of two digits, AUROC {percent(result['blends_auroc'])}. In "
        f"brackets: 95 % intervals. {len(tests)} tests of guarantees, each at the level "
        f"{result['false_alarm_rate_of_the_tests']:g} / {len(tests)}, so that the chance of any false alarm is at most "
        f"{result['false_alarm_rate_of_the_tests']:g}; none alarms, the smallest p-value is {min(tests.values()):.2g}. "
        f"Seed {result['seed']}; {versions}."
    )


def marginal(result: Mapping[str, Any]) -> str:
    """False alarm rates."""
    rows = [
        (
            row["scores"] + (", randomised" if row["randomised"] else ""),
            f"{row['alpha']:g}",
            ranged(row["mean"], 2),
            percent(row["spread"], 2),
        )
        for row in result["marginal"]
        if row["scores"] != "continuous"
    ]
    return markdown("scores | alpha | false alarms, mean of 200 splits, % | standard deviation over splits, %", rows)


def by_class(result: Mapping[str, Any]) -> str:
    """False alarm rates of classes."""
    names = {"plain": "`Calibration`", "by_class": "`MondrianCalibration`"}
    found = result["by_class"]
    rows = [(label, *(percent(found[name][end]) for end in ("lowest", "highest"))) for name, label in names.items()]
    return markdown("calibration | lowest class, % | highest class, %", rows)


def conditional(result: Mapping[str, Any]) -> str:
    """Calibration sets that exceed a bound."""
    rows = [
        (
            ADJUSTMENTS[row["adjustment"]],
            row["holds_for"],
            ranged(row["exceeded"]),
            percent(row["rate_at_0.05"], 2),
        )
        for row in result["conditional"]
        if row["scores"] == "digits"
    ]
    return markdown("adjustment | at | sets that exceed it, % | mean false alarm rate at 0.05, %", rows)


def calculator(result: Mapping[str, Any]) -> str:
    """Sizes of calibration sets."""
    columns = ("marginal", "fixed_alpha", "fixed_alpha_level_0.8", "every_alpha")
    rows = [
        (f"{row['alpha']:g}", f"{row['delta']:g}", *(f"{row[name]:,}" for name in columns))
        for row in result["calculator"]
    ]
    return markdown("alpha | delta | on average | this alpha | this alpha, at little cost | every alpha", rows)


def false_discovery(result: Mapping[str, Any]) -> str:
    """FDR and power."""
    rows = [
        (row["procedure"], str(row["failures"]), f"{row['q']:g}", ranged(row["fdr"]), percent(row["found"]))
        for row in result["false_discovery"]
        if row["scores"] == "digits"
    ]
    return markdown("procedure | failures of 100 | q | FDR, % | failures found, %", rows)


def stream(result: Mapping[str, Any]) -> str:
    """Alarms of the martingale."""
    clean = [
        (row["scores"], str(row["threshold"]), ranged(row["alarms"]), percent(1 / row["threshold"], 0))
        for row in result["streams"]["clean"]
        if row["scores"] != "continuous"
    ]
    shifted = [
        (
            percent(row["share_of_failures"], 0),
            ranged(row["noticed"]),
            "–" if row["median_delay"] is None else f"{row['median_delay']:.0f}",
        )
        for row in result["streams"]["shifted"]
    ]
    return "\n\n".join(
        (
            markdown("scores | threshold | clean streams with an alarm, % | at most, %", clean),
            markdown("failures from input 300 on, % | streams with an alarm, % | median delay, inputs", shifted),
        )
    )


def selective(result: Mapping[str, Any]) -> str:
    """Labelled sets that exceed the target."""
    rows = [
        (
            row["way"] if " " in row["way"] else f"`{row['way']}`",
            percent(row["target"], 0),
            ranged(row["exceeded"]),
            percent(row["refused"]["rate"]),
            percent(row["coverage"]),
        )
        for row in result["selective"]["rows"]
    ]
    return markdown("way | target, % | sets above the target, % | refused, % | inputs accepted, %", rows)


def claim(result: Mapping[str, Any]) -> str:
    """Tests of hypotheses, and the error rate by p-value."""
    found = result["claim"]
    overall, within = found["overall"], found["within_class"]
    tests = [
        (
            "all images",
            f"{percent(overall['superiority'])} ({span(overall['interval'])})",
            f"{overall['mann_whitney_p']:.0e}",
            f"{overall['permutation_p']:.2g}",
            f"{overall['ks_p']:.0e}",
        ),
        (
            "within predicted classes",
            f"{percent(within['superiority'])} ({span(within['interval'])})",
            f"{within['van_elteren_p']:.0e}",
            f"{within['permutation_p']:.2g}",
            "–",
        ),
    ]
    bins = [
        (
            f"{b['low']:g} to {b['high']:g}",
            str(b["n"]),
            str(b["n_errors"]),
            f"{percent(b['rate'])} ({span(b['interval'])})",
        )
        for b in found["bins"]
    ]
    return "\n\n".join(
        (
            markdown("wrong against right predictions | AUROC | p, rank sum | p, permutation | p, KS", tests),
            markdown("p-value | images | wrong | error rate, %", bins),
            f"The rate falls over the bins: p = {found['trend_p']:.0e}. It rises between two neighbours: "
            f"p = {found['rise_p']:.2g}.",
        )
    )


def broken(result: Mapping[str, Any]) -> str:
    """What happens where an assumption fails."""
    return markdown(
        "what | refused, or wrong and accepted, %", [(row["what"], ranged(row)) for row in result["broken"]]
    )


SECTIONS = {
    "setup": setup,
    "marginal": marginal,
    "classes": by_class,
    "conditional": conditional,
    "calculator": calculator,
    "discoveries": false_discovery,
    "stream": stream,
    "selective": selective,
    "claim": claim,
    "broken": broken,
}


def filled(page: str, result: Mapping[str, Any]) -> str:
    """The page with every section between its markers.

    Raises:
        ValueError: a marker is missing.
    """
    for name, write in SECTIONS.items():
        page = pages.filled(page, name, write(result))
    return page


def write_page(result: Mapping[str, Any]) -> None:
    """Renew the tables."""
    PAGE.write_text(filled(PAGE.read_text(), result))
