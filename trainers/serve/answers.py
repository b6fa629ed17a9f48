"""The service's answers as its schema describes them; a number that is not finite is null."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field

from gmm_torch.detector.explanation import ComponentFacts, Explanation
from trainers.records.record import Record

N_CLASSES = 5  # of a component's make-up


class FeatureContribution(BaseModel):
    """A feature and what it adds to the squared distance."""

    name: str
    contribution: float | None = Field(
        description="in units of squared_distance; those of all features sum to it, and some may be below zero"
    )


class ClassShare(BaseModel):
    """How much of a component is predicted as a class."""

    class_name: str
    share: float = Field(description="of the component's fitting images, from 0 to 1")


class ComponentAnswer(BaseModel):
    """The component of a mixture that an image belongs to."""

    component: int = Field(description="its number; -1 where the features are not finite")
    responsibility: float | None
    predictions: list[ClassShare] = Field(description="what fitting images of the component are predicted as")
    n_labelled: int = Field(description="labelled calibration images of the component")
    n_errors: int = Field(description="how many of these are predicted wrongly")
    squared_distance: float | None = Field(description="from the component's mean")
    n_features: int = Field(description="of the mixture")
    features: list[FeatureContribution] = Field(description="those that contribute most to the distance")


class ExplanationAnswer(BaseModel):
    """Why an image was accepted or refused."""

    text: str
    dominant: str | None = Field(description="the part that lowers the score most; null for a score of one part")
    parts: dict[str, float | None] = Field(description="p-values of the score's parts")
    views: dict[str, float | None] = Field(description="probability of the predicted class in each view")
    leading: str | None = Field(description="the mixture to look at first; null for a score without mixtures")
    mixtures: dict[str, ComponentAnswer]


class Answer(BaseModel):
    """The verdict on one image."""

    prediction: int
    class_name: str
    probability: float | None = Field(description="the classifier's own, of its prediction")
    score: float | None = Field(description="higher is more typical; null where it is not finite")
    p_value: float | None = Field(description="conformal; null where the classifier's outputs are not finite")
    alpha: float = Field(description="at most this share of good images is refused, on average over calibration sets")
    accept: bool = Field(description="p_value > alpha and outputs that are finite; decided by rank")
    verdict: Literal["accepted", "refused"]
    reason: Literal["typical", "not typical", "outputs not finite"]
    detector: str = Field(description="version of the detector that judged")
    explanation: ExplanationAnswer | None


class BatchItem(BaseModel):
    """What became of one image of several."""

    file: str = Field(description="the name that the form gave it")
    status: int = Field(description="200, or what the image alone would have been answered with")
    answer: Answer | None
    detail: str | None = Field(description="why there is no answer")


class BatchAnswer(BaseModel):
    """The verdicts on several images, in the order of the form."""

    items: list[BatchItem]


class CalibrationAnswer(BaseModel):
    """The calibration scores that an image's score is ranked among."""

    n: int
    alpha: float
    threshold: float = Field(description="images that score less are refused")
    lowest: float
    highest: float
    edges: list[float] = Field(description="of the bins, one more than counts; scores beyond are in the outer bins")
    counts: list[int]
    weighted: bool = Field(description="whether p-values count the scores by weight; counts are of scores")
    counted: bool = Field(description="whether p is (1 + the number of scores up to the image's) / (n + 1)")


class DriftWindow(BaseModel):
    """Verdicts in a window, and the evidence that its images are not like the calibration images."""

    started: str = Field(description="UTC, by the clock on the wall")
    seconds: float = Field(description="how long it lasted, or has lasted")
    complete: bool
    images: int
    refused: int = Field(description="those whose outputs are not finite among them")
    not_finite: int
    refusal_rate: float | None = Field(description="null before the first image")
    alpha: float = Field(description="the rate on images that the detector is calibrated for")
    highest_log10_capital: float = Field(description="of the bet against the calibration images, so far in the window")
    alarms: int


class DriftAnswer(BaseModel):
    """The windows since the detector was loaded, newest first; those without images are left out."""

    windows: list[DriftWindow]


class Reloaded(BaseModel):
    """The detector in force after a reload."""

    detector: str = Field(description="its version")
    changed: bool = Field(description="whether it is another than before")


Status = Literal["ready", "starting", "stalled", "failed", "draining"]


class Health(BaseModel):
    """Whether the service answers, and what it is."""

    status: Status
    detector: str = Field(description="version of the detector: a hash of it, its calibration and the classifier")
    alpha: float
    n_calibration: int
    weighted: bool = Field(description="whether the calibration images have weights, for images from elsewhere")
    n_classes: int
    image_shape: list[int] = Field(description="channels, height, width that images are brought to")
    waiting: int = Field(description="images in work")


class Problem(BaseModel):
    """What was expected, what arrived, what to do."""

    detail: str


def told(problems: Mapping[int, str], model: type[BaseModel] = Problem) -> dict[int | str, dict[str, Any]]:
    """Refusals as a route declares them: status -> what it says."""
    return {status: {"model": model, "description": text} for status, text in problems.items()}


def finite(value: float | None) -> float | None:
    """The number, or None where it is NaN or infinite, which JSON can't say."""
    return value if value is not None and math.isfinite(value) else None


def answer_of(record: Record, alpha: float, detector: str, explanation: ExplanationAnswer | None) -> Answer:
    """The record of an image in the schema's words."""
    return Answer(
        prediction=record.prediction,
        class_name=record.class_name,
        probability=finite(record.max_softmax),
        score=finite(record.score),
        p_value=record.p_value if record.finite else None,
        alpha=alpha,
        accept=record.accept,
        verdict="accepted" if record.accept else "refused",
        reason="outputs not finite" if not record.finite else "typical" if record.accept else "not typical",
        detector=detector,
        explanation=explanation,
    )


def explanation_of(found: Explanation) -> ExplanationAnswer:
    """The explanation in the schema's words."""
    return ExplanationAnswer(
        text=str(found),
        dominant=found.dominant,
        parts={name: finite(p) for name, p in found.part_p_values.items()},
        views={name: finite(p) for name, p in found.views.items()},
        leading=found.leading,
        mixtures={name: _component(found, facts) for name, facts in found.mixtures.items()},
    )


def _component(found: Explanation, facts: ComponentFacts) -> ComponentAnswer:
    return ComponentAnswer(
        component=facts.component,
        responsibility=finite(facts.responsibility),
        predictions=[ClassShare(class_name=found.name(c), share=share) for c, share in facts.predictions[:N_CLASSES]],
        n_labelled=facts.n_labelled,
        n_errors=facts.n_errors,
        squared_distance=finite(facts.squared_distance),
        n_features=facts.n_features,
        features=[FeatureContribution(name=name, contribution=finite(part)) for name, part in facts.features],
    )
