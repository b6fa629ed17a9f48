"""What makes a detector weak, as far as it can tell without failures; `docs/weak.md` says what to do."""

from typing import TYPE_CHECKING, NamedTuple

from gmm_torch.detection.features.layers import PENULTIMATE
from gmm_torch.detection.mixtures.usage import concentration

if TYPE_CHECKING:
    from gmm_torch.detection.parts import DetectorParts

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


def _calibration(detector: "DetectorParts") -> list[Finding]:
    rate, n = detector.calibration.realised_rate(detector.alpha), len(detector.calibration)
    if rate is None or rate[1] <= MAX_EXCESS * detector.alpha:
        return []
    text = (
        f"with {n:,} calibration inputs, {rate[0]:.1%} to {rate[1]:.1%} of good inputs are refused at alpha = "
        f"{detector.alpha:g}, in 95 of 100 such sets"
    )
    return [Finding("few-calibration-images", text)]


def _layers(detector: "DetectorParts") -> list[Finding]:
    extractor = detector.extractor
    asked, found = detector.score.layers, extractor.layers
    if asked == PENULTIMATE or extractor.found_by == "named" or len(found) != 1:
        return []
    text = f"one layer was found to look at, {found[0]} ({extractor.found_by}), where the score is meant for several"
    return [Finding("odd-layers", text)]


def _mixtures(detector: "DetectorParts") -> list[Finding]:
    found = []
    for (name, model), kept in zip(detector.score.models().items(), detector.examples.kept, strict=True):
        held_out = bool(kept.labelled.any())
        counts = (kept.labelled if held_out else kept.predicted).sum(1)
        k, d = model.mixture.n_components, model.mixture.n_features
        kind = "calibration" if held_out else "fitting"
        if used := concentration(counts):
            many = f"{used.largest:.0%} of {int(counts.sum()):,} {kind} inputs"
            text = f"{name}: {many} are in one of {k} components, which count as {used.n_used:.1f}"
            found.append(Finding("all-in-one-component", text))
        n = int(kept.predicted.sum())
        needed = -(-NUMBERS * model.mixture.n_parameters() // d)
        if n < needed:
            text = f"{name}: {n:,} fitting inputs for {k} components of {d:,} features, which need {needed:,}"
            found.append(Finding("too-few-images-to-fit", text))
    return found


def _accuracy(detector: "DetectorParts") -> list[Finding]:
    for kept in detector.examples.kept[:1]:  # each has seen the same inputs
        n, wrong = int(kept.labelled.sum()), int(kept.wrong.sum())
        if n and 1 - wrong / n < LOW_ACCURACY:
            text = f"the classifier is right on {1 - wrong / n:.0%} of {n:,} labelled calibration inputs"
            return [Finding("low-accuracy", text)]
    return []
