"""What a watch on a stream of images found, and after an alarm what changed."""

from array import array
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from gmm_torch.conformal.drift import ComponentChange, Stretch, component_changes, onset, stretches
from gmm_torch.detector import FailureDetector
from gmm_torch.lightning.drift import DriftCallback
from trainers.records.verdicts import read_verdicts
from trainers.run.requirements import naming

WINDOW = 1000  # images from the likely beginning of a change on, of which the components are compared

READ_BY_FOLDER = (
    "The images were read folder by folder: where folders are classes, this order alone may give an alarm, though "
    "nothing changed. Give input= a text file that lists the images in the order in which they came, or shuffled"
)


class Drift(NamedTuple):
    """An alarm, and what is there to see; indices count images from 0."""

    alarm_at: int | None  # the image that raised the first alarm; None for none, of which nothing else says anything
    began_at: int = 0  # the image with which the change most likely began, an estimate
    components: tuple[ComponentChange, ...] = ()  # those that explain more images than before; examples by index
    stretches: tuple[Stretch, ...] = ()  # p-values of the whole stream
    mixture: str = ""  # whose components are compared, the score's first; empty where it has none
    unnamed: str = ""  # why no components are compared; empty where they are
    by_folder: bool = False  # see `read_by_folder`: the order may say what the images are

    @property
    def grown(self) -> list[ComponentChange]:
        """The components whose share grew by more than chance explains."""
        return [each for each in self.components if each.has_grown]


def drift_callback(cfg: DictConfig) -> DriftCallback | None:
    """Build the callback that `drift=` selects; None for none.

    Raises:
        ValueError: a key that it does not have, or a value out of range.
    """
    with naming("drift"):
        return instantiate(cfg.drift) if cfg.get("drift") else None


def drift_of(callback: DriftCallback, detector: FailureDetector, path: Path) -> Drift:
    """Describe drift in the verdicts at `path`, which the callback watched; takes 8 bytes an image."""
    if not callback.alarms:
        return Drift(None)
    alarm_at = callback.alarms[0]
    p_values, components = array("f"), array("i")
    for row in read_verdicts(path):
        p_values.append(0.0 if row.error else row.p_value)  # the least typical, as in the bet
        components.append(row.component)
    p, component = torch.tensor(p_values, dtype=torch.float32), torch.tensor(components, dtype=torch.int64)
    began_at = onset(p[: alarm_at + 1])
    over_time = stretches(p, alpha=detector.alpha)
    reference = detector.examples.reference_components()
    read = (component[began_at : began_at + WINDOW] >= 0).nonzero()[:, 0] + began_at  # no image, no component
    mixture = detector.score.component_of or ""
    unnamed = _unnamed(detector, len(reference), len(read))
    if unnamed:
        return Drift(alarm_at, began_at, (), over_time, mixture, unnamed)
    found = component_changes(reference, component[read], p[read])
    named = tuple(each._replace(examples=tuple(int(read[i]) for i in each.examples)) for each in found)
    return Drift(alarm_at, began_at, named, over_time, mixture)


def _unnamed(detector: FailureDetector, n_reference: int, n_read: int) -> str:
    if not detector.examples.mixtures:
        return "the score has no mixture"
    if not n_reference:
        return (
            "the detector has seen no labelled inputs but those that its mixture was fitted to, and these tell nothing "
            "of others: give it some with `component_report`, or make it with task=fit"
        )
    return "" if n_read else "no image from there on can be read"


def drift_in_words(drift: Drift, callback: DriftCallback, paths: Sequence[str], *, warned: bool = False) -> list[str]:
    """Sentences for the terminal and the page; without the meaning of an alarm if the callback has `warned`."""
    if drift.alarm_at is None:
        return [
            "No alarm of drift: the bet against the calibration inputs did not reach "
            f"{callback.monitor.threshold:g} times its stake."
        ]
    others = len(callback.alarms) - 1
    means = "" if warned else f": {callback.monitor.alarm_in_words}"
    alarm = f"Drift at image {drift.alarm_at + 1:,}, {paths[drift.alarm_at]}{means}."
    grown = [
        f"component {each.component} of {drift.mixture} ({100 * each.share_now:.1f} %, of held-out images "
        f"{100 * each.share_before:.1f} %; for example {paths[each.examples[0]]})"
        for each in drift.grown
    ]
    changed = f"No component of the mixture {drift.mixture} has more images than chance explains."
    if grown:
        changed = f"Of the images from there on more than usual fall to {'; '.join(grown)}."
    if drift.unnamed:
        changed = f"Components are not compared: {drift.unnamed}."
    began = f"The change most likely began at image {drift.began_at + 1:,}, {paths[drift.began_at]} (an estimate)."
    more = [f"{others} more window{'s' * (others > 1)} had an alarm."] if others else []
    return [alarm, *more, *([f"{READ_BY_FOLDER}."] if drift.by_folder else []), began, changed]


def drift_facts(drift: Drift, callback: DriftCallback, paths: Sequence[str]) -> dict[str, Any]:
    """The same for JSON."""
    monitor = callback.monitor
    facts: dict[str, Any] = {
        "against": monitor.against,
        "threshold": monitor.threshold,
        "alarms": [{"index": index, "path": paths[index]} for index in callback.alarms],
    }
    if monitor.seconds is not None:
        facts["windows"] = [
            {**each._asdict(), "start": datetime.fromtimestamp(each.start, UTC).isoformat()} for each in monitor.windows
        ]
    if drift.alarm_at is not None:
        facts["read_by_folder"] = drift.by_folder
        facts["began"] = {"index": drift.began_at, "path": paths[drift.began_at]}
        facts["component_of"] = drift.mixture or None
        facts["components"] = [
            {**each._asdict(), "examples": [paths[i] for i in each.examples]} for each in drift.components
        ]
        facts["not_compared"] = drift.unnamed
        facts["p_values"] = [each._asdict() for each in drift.stretches]
    return facts
