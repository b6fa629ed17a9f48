"""Pipelines of transformers whose answers include a p-value and a decision."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from torch import Tensor

from gmm_torch.detector import FailureDetector
from gmm_torch.detector.weights import fingerprint

try:
    import transformers
    from transformers.pipelines.base import pad_collate_fn
except ImportError as error:
    raise ImportError(
        "transformers: expected to be installed, for its pipelines; it is not: pip install transformers"
    ) from error


class _Judging:
    """A pipeline whose answers include the detector's verdict."""

    detector: FailureDetector

    def _forward(self, model_inputs: Any, **_: Any) -> dict[str, Tensor]:
        verdict = self.detector(dict(model_inputs))  # runs the model, as the pipeline itself would
        return {"logits": verdict.logits, "p_value": verdict.p_value, "accept": verdict.accept}

    def postprocess(self, model_outputs: dict[str, Tensor], **options: Any) -> Any:
        answers = super().postprocess(model_outputs, **options)  # type: ignore[misc]
        judged = {"p_value": float(model_outputs["p_value"][0]), "accept": bool(model_outputs["accept"][0])}
        return answers | judged if isinstance(answers, dict) else [each | judged for each in answers]


class JudgingImageClassificationPipeline(_Judging, transformers.ImageClassificationPipeline):  # type: ignore[misc]
    """See `judging`."""


class JudgingTextClassificationPipeline(_Judging, transformers.TextClassificationPipeline):  # type: ignore[misc]
    """See `judging`."""


JUDGING = {
    transformers.ImageClassificationPipeline: JudgingImageClassificationPipeline,
    transformers.TextClassificationPipeline: JudgingTextClassificationPipeline,
}


def judging(pipe: transformers.Pipeline, detector: FailureDetector) -> transformers.Pipeline:
    """The same pipeline, whose answers have `p_value` and `accept` as well as `label` and `score`.

    Processor, options, batches and kinds of input are unchanged. The p-value is of the input, so it is the same in each
    of the `top_k` answers.

    Args:
        pipe: for image or text classification.
        detector: fitted and calibrated on inputs of the same pipeline (`model_inputs`), for the same model.

    Raises:
        TypeError: a pipeline for something else.
        ValueError: the model has one label or judges several at once, or the detector is of another model.
        NotFittedError: the detector is not fitted and calibrated.

    Examples:
        pipe = transformers.pipeline("image-classification", model="...")
        detector = FailureDetector(pipe.model).fit(model_inputs(pipe, images))
        detector = detector.calibrate(model_inputs(pipe, other_images))
        judging(pipe, detector)("cat.png", top_k=1)
        # [{'label': 'cat', 'score': 0.97, 'p_value': 0.41, 'accept': True}]
    """
    kind = JUDGING.get(type(pipe))
    if kind is None:
        expected = " or ".join(each.__name__ for each in JUDGING)
        raise TypeError(f"pipe: expected a {expected}; got {type(pipe).__name__}: make one with transformers.pipeline")
    config = pipe.model.config
    if config.num_labels < 2 or config.problem_type in ("multi_label_classification", "regression"):
        raise ValueError(
            f"pipe: expected a model that chooses one of several labels; got {config.num_labels} label(s) and "
            f"problem_type={config.problem_type!r}: a verdict is about one class for each input"
        )
    if detector.classifier is not pipe.model and fingerprint(detector.classifier) != fingerprint(pipe.model):
        raise ValueError(
            "detector: expected one of the pipeline's model; got one of another model or other weights: make it with "
            "FailureDetector(pipe.model), or load it with FailureDetector.load(path, pipe.model)"
        )
    detector.calibration.threshold(detector.alpha)  # raises where it is not calibrated
    judged = kind.__new__(kind)  # shares the parts of the pipeline
    judged.__dict__ |= vars(pipe) | {"detector": detector.to(pipe.device)}
    return judged


def model_inputs(
    pipe: transformers.Pipeline, inputs: Iterable[Any], batch_size: int = 32
) -> Iterator[dict[str, Tensor]]:
    """Batches for `FailureDetector.fit` and `calibrate`, prepared by the pipeline's own preprocessing.

    Args:
        pipe: for image or text classification.
        inputs: as the pipeline takes them, one at a time: images, paths, strings.
        batch_size: inputs a batch; texts are padded to the longest of theirs.
    """
    collate = pad_collate_fn(pipe.tokenizer, pipe.feature_extractor or pipe.image_processor)
    rest = iter(inputs)
    while batch := [pipe.preprocess(each, **pipe._preprocess_params) for each in islice(rest, batch_size)]:
        yield collate(batch)
