"""The conclusion of a run in a few sentences."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gmm_torch.conformal.p_values import realised_rate, usual_share
from gmm_torch.evaluation.rates import interval
from trainers.report.tables.corruptions import mean
from trainers.report.tables.results import n_test_images
from trainers.report.tables.text import (
    BASELINE,
    epsilon_text,
    of_softmax,
    percent,
    percent_range,
    source_label,
    told_apart,
    too_few,
)

# Share of the failures refused where 5 % of the good are, from which a source counts as caught, as caught in part.
CATCHES, PARTLY = 0.80, 0.40
MAX_NAMES = 4  # of a list in the headline
CORRUPTED = "errors on corrupted images"


class Conclusion(NamedTuple):
    """A headline and the sentences that qualify it."""

    headline: str
    sentences: list[str]


def conclude(metrics: Mapping[str, Any]) -> Conclusion:
    """What the detector catches, what it does not, where plain softmax confidence is the better choice."""
    sources = {**metrics["sources"], **_corrupted(metrics)}
    measured = {name: s for name, s in sources.items() if s["fpr_at_95_tpr"] is not None}
    sure = {name: s for name, s in measured.items() if not too_few(s)}
    sentences = [
        _comparison(judged(metrics["sources"])),
        *(about(metrics) for about in (_corruptions, _budgets, _false_alarms, _shifts)),
        *(about(sources) for about in (_too_few, _unmeasured)),
    ]
    headline = _headline(sure) if measured else "There were no failures to catch."
    return Conclusion(headline, [sentence for sentence in sentences if sentence])


def judged(sources: Mapping[str, Any]) -> dict[str, Any]:
    """The sources on which the score is compared with the softmax: those with failures, and enough of them."""
    return {
        name: s
        for name, s in sources.items()
        if s["auroc"] is not None and of_softmax(s) is not None and not too_few(s)
    }


def _headline(measured: Mapping[str, Any]) -> str:
    refused = {name: 1 - s["fpr_at_95_tpr"] for name, s in measured.items()}
    ordered = sorted(measured, key=lambda name: (-refused[name], -(measured[name]["auroc"] or 0)))
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
    return f"The detector {', '.join(clauses)}." if clauses else "There were too few failures for a conclusion."


def _corrupted(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The errors on corrupted images in the form of a source, those of all corruptions together; {} where none is.

    The images are the same in all of them, so that no more than the most errors of one count as a sample.
    """
    found = metrics.get("corruptions")
    if not found:
        return {}
    points = [point for kind in found["kinds"].values() for point in kind]
    accepted = [
        (rate, round(point["n"] * point["error_rate"]))
        for point in points
        if (rate := point["fpr_at_95_clean_tpr"]) is not None
    ]
    most = max((n for _, n in accepted), default=0)
    share = sum(rate * n for rate, n in accepted) / sum(n for _, n in accepted) if accepted else None
    return {
        CORRUPTED: {
            "n": most,
            "auroc": mean([point["auroc"] for point in points]),
            "fpr_at_95_tpr": share,
            "effect_size": None if share is None else {"interval": interval(round(share * most), most)},
            "baselines": {BASELINE: {"auroc": mean([of_softmax(point) for point in points])}},
        }
    }


def _corruptions(metrics: Mapping[str, Any]) -> str:
    found = metrics.get("corruptions")
    if not found:
        return ""
    kinds, clean, source = list(found["kinds"].values()), found["clean"], _corrupted(metrics)[CORRUPTED]
    wrong, accepted, risk = (
        percent(mean([point[key] for kind in kinds for point in kind])) for key in ("error_rate", "coverage", "risk")
    )
    text = (
        f"Of the predictions on corrupted images ({_number(len(kinds), 'kind')}) {wrong} % are wrong, of the "
        f"{accepted} % that are accepted {risk} %; on the same images as they are {percent(clean['error_rate'])} and "
        f"{percent(clean['risk'])} %."
    )
    if source["auroc"] is not None:
        ours, softmax = percent(source["auroc"]), percent(of_softmax(source))
        text += f" Errors among them are ranked with an AUROC of {ours}, by softmax with {softmax}."
    return text


def _budgets(metrics: Mapping[str, Any]) -> str:
    curves = metrics.get("sweeps", {}).items()
    points = [(name, point) for name, curve in curves for point in curve if point["evasion_rate"] is not None]
    if not points:
        return ""
    name, worst = max(points, key=lambda each: each[1]["evasion_rate"])
    return (
        f"Of images attacked at growing budgets up to {percent(worst['evasion_rate'])} % end up wrong and accepted "
        f"({source_label(f'adversarial/{name}')} at {epsilon_text(worst['epsilon'])})."
    )


def _shifts(metrics: Mapping[str, Any]) -> str:
    found = metrics.get("shifts")
    if not found:
        return ""
    rows = found["rows"][1:]  # the first is of images that come from here
    plain, weighted = (
        [row[key]["false_alarm_rate"] for row in rows if "false_alarm_rate" in row[key]]
        for key in ("plain", "weighted")
    )
    text = (
        f"On images from elsewhere ({_number(len(rows), 'set')}) {_span(plain)} % are refused where at most "
        f"{100 * found['alpha']:g} % would be here"
    )
    if weighted:
        text += f"; with weights {_span(weighted)} %"
    if lost := len(rows) - len(weighted):
        text += f"; for {lost} of them weights can promise nothing"
    return f"{text}."


def _span(rates: Sequence[float]) -> str:
    return " to ".join(dict.fromkeys((percent(min(rates)), percent(max(rates)))))


def _number(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' if n != 1 else ''}"


def _comparison(compared: Mapping[str, Any]) -> str:
    if not compared:
        return ""
    worse = [name for name, s in compared.items() if told_apart(s) < 0]
    n_better = sum(told_apart(s) > 0 for s in compared.values())
    count = (
        f"It ranks failures better than plain softmax confidence on {n_better} of "
        f"{_number(len(compared), 'source')} and worse on {len(worse) or 'none'}"
    )
    if open_ := len(compared) - n_better - len(worse):
        count += f"; on {open_} the two can't be told apart"
    if not worse:
        return f"{count}."
    pairs = {name: (percent(of_softmax(compared[name])), percent(compared[name]["auroc"])) for name in worse}
    where = [f"{source_label(name)} ({softmax} against our {ours})" for name, (softmax, ours) in pairs.items()]
    return f"{count}. Softmax is the better choice on {_join(where)}."


def _false_alarms(metrics: Mapping[str, Any]) -> str:
    calibration = metrics["calibration"]
    if (rate := calibration["false_alarm_rate"].get("0.05")) is None:
        return ""
    text = f"Asked to refuse at most 5 % of clean images, it refused {percent(rate)} % of the clean test images"
    realised, n_test = calibration.get("realised_rate", {}).get("0.05"), n_test_images(metrics)
    if realised and n_test:
        usual = usual_share(_n_below(realised, calibration["n"]), calibration["n"], n_test)
        text += (
            f"; {percent_range(usual)}\u00a0% are usual with {_number(n_test, 'test image')} and "
            f"{_number(calibration['n'], 'calibration image')}"
        )
    return f"{text}."


def _n_below(realised: Sequence[float], n: int) -> int:
    """How many of n calibration scores lie below the threshold that has this interval of realised rates."""
    return bisect_left(range(n), realised[1] - 1e-9, key=lambda k: realised_rate(k, n)[1])


def _too_few(sources: Mapping[str, Any]) -> str:
    few = [f"{source_label(name)} (n = {s['n']})" for name, s in sources.items() if too_few(s)]
    return f"Too few failures for a conclusion: {_join(few)}." if few else ""


def _unmeasured(sources: Mapping[str, Any]) -> str:
    empty = [name for name, s in sources.items() if s["fpr_at_95_tpr"] is None]
    return f"Not measured, for want of failures: {_join([source_label(name) for name in empty])}." if empty else ""


def _names(sources: Sequence[str]) -> str:
    labels = [_plural(source) for source in sources]
    if len(labels) > MAX_NAMES:  # of each kind one before a second of any
        kinds = [source.partition("/")[0] for source in sources]
        labels = [labels[i] for i in sorted(range(len(labels)), key=lambda i: kinds.index(kinds[i]) != i)]
        labels = [*labels[: MAX_NAMES - 1], f"{len(labels) - MAX_NAMES + 1} more"]
    return _join(labels)


def _plural(source: str) -> str:
    kind, _, name = source.partition("/")
    name = name.replace("_", " ")
    return {"adversarial": f"{name} attacks", "ood": f"{name} images"}.get(kind, source_label(source))


def _join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
