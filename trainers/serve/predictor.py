"""From a batch of images to answers."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gmm_torch.detection import FailureDetector, Outputs
from gmm_torch.detection.verdict import Verdict
from trainers.data.pixels import as_unit
from trainers.serve.answers import Answer, ExplanationAnswer, explanation_of, finite


class Question(NamedTuple):
    """An image to decide on.

    Attributes:
        image: (C, H, W) uint8, or float32 in [0, 1].
        explain: whether to say why.
    """

    image: Tensor
    explain: bool = True


class Predictor:
    """Answers batches of questions; one thread calls it.

    An image whose logits, features or score are not finite is refused, whatever the calibration makes of it.

    Args:
        detector: fitted and calibrated.
        class_names: index -> name; numbers where None.
        watch: told the answers and the scores (N,) of each batch, in the order of the stream.
    """

    def __init__(
        self,
        detector: FailureDetector,
        class_names: Sequence[str] | None = None,
        watch: Callable[[Sequence[Answer], Tensor], None] | None = None,
    ) -> None:
        self.detector = detector
        self.class_names = class_names
        self.watch = watch

    @torch.inference_mode()
    def __call__(self, questions: Sequence[Question]) -> list[Answer]:
        """One answer a question."""
        images = torch.stack([as_unit(question.image) for question in questions]).to(self.detector.device)
        outputs = self.detector.extractor(images)
        explained, verdict = self._explain(questions, outputs)
        usable = (finite_rows(outputs) & torch.isfinite(verdict.score)).cpu()
        score = torch.where(usable, verdict.score.double().cpu(), -torch.inf)
        probability = outputs.own_logits.softmax(-1).amax(-1).tolist()
        parts = (verdict.prediction, verdict.p_value, verdict.accept, usable)
        columns = zip(*(part.tolist() for part in parts), strict=True)
        answers = [
            self._answer(prediction, probability[i], float(score[i]), p_value, accept, good, explained.get(i))
            for i, (prediction, p_value, accept, good) in enumerate(columns)
        ]
        if self.watch is not None:
            self.watch(answers, score)
        return answers

    def _explain(self, questions: Sequence[Question], outputs: Outputs) -> tuple[dict[int, ExplanationAnswer], Verdict]:
        """The explanations that are asked for, by row, and the verdicts of all rows."""
        rows = [i for i, question in enumerate(questions) if question.explain]
        if not rows:
            return {}, self.detector.verdict(outputs)
        everything = len(rows) == len(questions)
        chosen = outputs if everything else outputs.rows(torch.tensor(rows, device=outputs.logits.device))
        found = self.detector.explain_outputs(chosen, self.class_names, n_nearest=0)
        explained = {row: explanation_of(found[i]) for i, row in enumerate(rows)}
        return explained, found.verdict if everything else self.detector.verdict(outputs)

    def _answer(
        self,
        prediction: int,
        probability: float,
        score: float,
        p_value: float,
        accept: bool,
        usable: bool,
        why: ExplanationAnswer | None,
    ) -> Answer:
        accept = accept and usable
        reason = "typical" if accept else "not typical"
        return Answer(
            prediction=prediction,
            class_name=str(prediction) if self.class_names is None else self.class_names[prediction],
            probability=finite(probability),
            score=finite(score),
            p_value=p_value if usable else None,
            alpha=self.detector.alpha,
            accept=accept,
            verdict="accepted" if accept else "refused",
            reason=reason if usable else "outputs not finite",  # type: ignore[arg-type]
            explanation=why,
        )


def finite_rows(outputs: Outputs) -> Tensor:
    """(N,) bool, whether every logit and feature of an input is a finite number."""
    parts = [outputs.logits, *outputs.features.values()]
    return torch.stack([torch.isfinite(part).flatten(1).all(1) for part in parts]).all(0)
