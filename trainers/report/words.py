"""Class names in words."""

from collections.abc import Sequence

from gmm_torch.detection.explanation.component_report import Share


def class_name(label: int, names: Sequence[str]) -> str:
    """A class in words; below 0 is none of them."""
    if label < 0:
        return "none of the classes"
    return str(names[label]) if label < len(names) else f"class {label}"


def in_words(shares: Sequence[Share], names: Sequence[str], n: int = 3) -> str:
    """The first of some classes with their shares."""
    return ", ".join(f"{class_name(label, names)} ({100 * share:.0f}\u00a0%)" for label, share in shares[:n])
