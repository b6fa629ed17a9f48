"""The conclusion of a run in a few sentences."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from trainers.report.tables.text import of_softmax, percent, percent_range, source_label, winner

# Share of the failures refused where 5 % of the good are, from which a source counts as caught, as caught in part.
CATCHES, PARTLY = 0.80, 0.40
UNSURE = 0.2  # width of the interval of the AUROC from which a source is too small for a conclusion
MAX_NAMES = 4  # of a list in the headline


class Conclusion(NamedTuple):
    """A headline and the sentences that qualify it."""

    headline: str
    sentences: list[str]


def conclude(metrics: Mapping[str, Any]) -> Conclusion:
    """What the detector catches, what it does not, where plain softmax confidence is the better choice."""
    measured = {name: s for name, s in metrics["sources"].items() if s["auroc"] is not None}
    if not measured:
        sentences = [_false_alarms(metrics), _unmeasured(metrics)]
        return Conclusion("There were no failures to catch.", [sentence for sentence in sentences if sentence])
    measured = {name: s for name, s in measured.items() if not _unsure(s)}
    refused = {name: 1 - s["fpr_at_95_tpr"] for name, s in measured.items()}
    ordered = sorted(measured, key=lambda name: (-refused[name], -measured[name]["auroc"]))
    caught = [name for name in ordered if refused[name] >= CATCHES]
    partly = [name for name in ordered if PARTLY <= refused[name] < CATCHES]
    missed = [name for name in ordered if refused[name] < PARTLY]
    clauses = []
    if caught:
        clauses.append(f"catches {_names(caught)}")
    if partly:
        clauses.append(f"{'but only' if caught else 'catches only'} part of the {_names(partly)}")
    if missed:
        clauses.append(f"{'and ' if clauses else ''}misses most {_names(missed)}")
    sentences = [_comparison(measured), _false_alarms(metrics), _too_few(metrics), _unmeasured(metrics)]
    return Conclusion(
        f"The detector {', '.join(clauses)}." if clauses else "There were too few failures for a conclusion.",
        [sentence for sentence in sentences if sentence],
    )


def _comparison(measured: Mapping[str, Any]) -> str:
    softmax = {name: value for name, s in measured.items() if (value := of_softmax(s)) is not None}
    compared = list(softmax)
    if not compared:
        return ""
    worse = [name for name in compared if winner(measured[name]["auroc"], softmax[name]) < 0]
    better = [name for name in compared if winner(measured[name]["auroc"], softmax[name]) > 0]
    number = f"{len(better)} of {len(compared)} source{'s' if len(compared) != 1 else ''}"
    count = f"It ranks failures better than plain softmax confidence on {number}"
    ours = sum(measured[name]["auroc"] for name in compared) / len(compared)
    base = sum(softmax[name] for name in compared) / len(compared)
    mean = f" (mean AUROC {percent(ours)} against {percent(base)})"
    if not worse:
        return f"{count}{mean} and worse on none."
    where = _join(
        [
            f"{source_label(name)} ({percent(softmax[name])} against our {percent(measured[name]['auroc'])})"
            for name in worse
        ]
    )
    return f"{count}{mean}. Softmax is the better choice on {where}."


def _false_alarms(metrics: Mapping[str, Any]) -> str:
    rate = metrics["calibration"]["false_alarm_rate"].get("0.05")
    if rate is None:
        return ""
    refused = f"Asked to refuse 5 % of clean images, it refused {percent(rate)} % of the clean test images"
    usual = metrics["calibration"].get("realised_rate", {}).get("0.05")
    if usual is None:
        return f"{refused}."
    return (
        f"{refused}; {percent_range(usual)}\u00a0% are usual with {metrics['calibration']['n']:,} calibration images."
    )


def _too_few(metrics: Mapping[str, Any]) -> str:
    few = [f"{source_label(name)} (n = {s['n']})" for name, s in metrics["sources"].items() if _unsure(s)]
    return f"Too few failures for a conclusion: {_join(few)}." if few else ""


def _unsure(source: Mapping[str, Any]) -> bool:
    effect = source.get("effect_size")
    return effect is not None and effect["interval"][1] - effect["interval"][0] > UNSURE


def _unmeasured(metrics: Mapping[str, Any]) -> str:
    empty = [name for name, s in metrics["sources"].items() if s["auroc"] is None]
    return f"Not measured, for want of failures: {_join([source_label(name) for name in empty])}." if empty else ""


def _names(sources: Sequence[str]) -> str:
    labels = [_plural(source) for source in sources]
    if len(labels) > MAX_NAMES:
        labels = [*labels[: MAX_NAMES - 1], f"{len(labels) - MAX_NAMES + 1} more"]
    return _join(labels)


def _plural(source: str) -> str:
    kind, _, name = source.partition("/")
    name = name.replace("_", " ")
    return {"adversarial": f"{name} attacks", "ood": f"{name} images"}.get(kind, source_label(source))


def _join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
