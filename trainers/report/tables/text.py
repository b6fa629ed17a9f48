"""Numbers, sources, budgets and classes in words, for tables, figures and pages."""

from collections.abc import Mapping, Sequence
from typing import Any

BASELINE = "max_softmax"
MISSING = "–"
UNSURE = 0.2  # width of the interval of the AUROC from which a source is too small for a conclusion


def percent(share: float | None, digits: int = 1) -> str:
    """0.8794 -> "87.9", None -> a dash."""
    return MISSING if share is None else f"{100 * share:.{digits}f}"


def percent_range(interval: tuple[float, float] | list[float], digits: int = 1) -> str:
    """(0.412, 0.5) -> "41.2 to 50.0"."""
    return " to ".join(percent(end, digits) for end in interval)


def number(value: float | None, digits: int) -> str:
    """Some significant digits, None -> a dash."""
    return MISSING if value is None else f"{value:.{digits}g}"


def p_value_text(p: float | None) -> str:
    """A p-value in two significant digits, with a floor where the number means nothing any more."""
    if p is None:
        return MISSING
    if p < 1e-99:
        return "< 1e-99"
    return f"{p:.2g}" if p >= 0.001 else f"{p:.0e}"


def epsilon_text(epsilon: float | None) -> str:
    """A budget in words: 0.0078 -> "2/255" where it is a multiple of a quarter of 1/255 up to 16, else the number."""
    if epsilon is None:
        return MISSING
    levels = 255 * epsilon
    if levels <= 16 and abs(4 * levels - round(4 * levels)) < 1e-6:
        return f"{levels:g}/255"
    return f"{epsilon:.3g}"


def source_label(source: str) -> str:
    """The source in plain words: "adversarial/cw_l2" -> "cw l2 attack", "ood/mnist" -> "mnist (OOD)"."""
    kind, _, name = source.partition("/")
    name = name.replace("_", " ")
    return {"errors": "test errors", "adversarial": f"{name} attack", "ood": f"{name} (OOD)"}.get(kind, source)


def class_name(label: int, names: Sequence[str]) -> str:
    """A class in words; below 0 is none of them."""
    if label < 0:
        return "none of the classes"
    return str(names[label]) if label < len(names) else f"class {label}"


def classes_in_words(shares: Sequence[tuple[int, float]], names: Sequence[str]) -> str:
    """The first three of some classes with their shares."""
    return ", ".join(f"{class_name(label, names)} ({100 * share:.0f}\u00a0%)" for label, share in shares[:3])


def of_softmax(found: Mapping[str, Any], name: str = "auroc") -> float | None:
    """A number of the largest softmax probability, beside ours in metrics.json; None where there is none."""
    return found["baselines"].get(BASELINE, {}).get(name)


def told_apart(source: Mapping[str, Any]) -> int:
    """1 where the interval of a source's AUROC minus that of the softmax is above 0, -1 where it is below, else 0."""
    if source.get("auroc_difference") is None:
        return 0
    low, high = source["auroc_difference"]["interval"]
    return int(low > 0) - int(high < 0)


def too_few(source: Mapping[str, Any]) -> bool:
    """Whether a source has too few failures for a conclusion: the interval of its AUROC is wider than `UNSURE`."""
    effect = source.get("effect_size")
    return effect is not None and effect["interval"][1] - effect["interval"][0] > UNSURE


def winner(ours: float | None, baseline: float | None) -> int:
    """1 where ours is the higher, -1 where the baseline is, 0 where they agree to a tenth of a per cent."""
    if ours is None or baseline is None:
        return 0
    difference = round(100 * ours, 1) - round(100 * baseline, 1)
    return (difference > 0) - (difference < 0)
