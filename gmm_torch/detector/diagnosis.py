"""What makes a detector weak, as far as it can tell without failures; `docs/weak.md` says what to do."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gmm_torch.features.layers import PENULTIMATE
from gmm_torch.scores.usage import concentration

if TYPE_CHECKING:
    from gmm_torch.detector.parts import DetectorParts

PAGE = "docs/weak.md"
MAX_EXCESS = 1.5  # times alpha: a calibration set is small where the realised rate may be higher
NUMBERS = 2  # of the fitting inputs' features for each parameter of a mixture; fewer leave full covariances singular
LOW_ACCURACY = 0.7


class Finding(NamedTuple):
    """One thing that may make a detector weak.

    Attributes:
        section: of `PAGE`, as its anchor.
        text: what was found, in a sentence without its stop.
    """

    section: str
    text: str

    def __str__(self) -> str:
        return f"{self.text}: see {PAGE}#{self.section}"


def diagnose(detector: "DetectorParts") -> list[Finding]:
    """What a fitted and calibrated detector finds about itself; nothing where all is well.

    The accuracy is that on the labelled inputs of `component_report`, and unknown without them.
    """
    return [*_calibration(detector), *_layers(detector), *_mixtures(detector), *_accuracy(detector)]


def _calibration(detector: "DetectorParts") -> Iterator[Finding]:
    rate, n = detector.calibration.realised_rate(detector.alpha), len(detector.calibration)
    if rate is not None and rate[1] > MAX_EXCESS * detector.alpha:
        refused = f"{rate[0]:.1%} to {rate[1]:.1%} of good inputs are refused at alpha = {detector.alpha:g}"
        yield Finding("few-calibration-images", f"with {n:,} calibration inputs, {refused}, in 95 of 100 such sets")


def _layers(detector: "DetectorParts") -> Iterator[Finding]:
    found, rule = detector.extractor.layers, detector.extractor.found_by
    if detector.score.layers != PENULTIMATE and rule != "named" and len(found) == 1:
        text = f"one layer was found to look at, {found[0]} ({rule}), where the score is meant for several"
        yield Finding("odd-layers", text)


def _mixtures(detector: "DetectorParts") -> Iterator[Finding]:
    for (name, model), kept in zip(detector.score.models().items(), detector.examples.kept, strict=True):
        held_out = bool(kept.labelled.any())
        counts = (kept.labelled if held_out else kept.predicted).sum(1)
        k, d = model.mixture.n_components, model.mixture.n_features
        kind = "calibration" if held_out else "fitting"
        if used := concentration(counts):
            many = f"{used.largest:.0%} of {int(counts.sum()):,} {kind} inputs"
            text = f"{name}: {many} are in one of {k} components, which count as {used.n_used:.1f}"
            yield Finding("all-in-one-component", text)
        n = int(kept.predicted.sum())
        needed = -(-NUMBERS * model.mixture.n_parameters() // d)
        if n < needed:
            text = f"{name}: {n:,} fitting inputs for {k} components of {d:,} features, which need {needed:,}"
            yield Finding("too-few-images-to-fit", text)


def _accuracy(detector: "DetectorParts") -> Iterator[Finding]:
    for kept in detector.examples.kept[:1]:  # each has seen the same inputs
        n, wrong = int(kept.labelled.sum()), int(kept.wrong.sum())
        if n and 1 - wrong / n < LOW_ACCURACY:
            text = f"the classifier is right on {1 - wrong / n:.0%} of {n:,} labelled calibration inputs"
            yield Finding("low-accuracy", text)
