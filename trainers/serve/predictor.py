"""Verdicts on a batch of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gmm_torch.detector import FailureDetector, Features
from gmm_torch.detector.verdict import Verdict
from trainers.data.pixels import as_unit
from trainers.records.record import Record, records_of
from trainers.serve.answers import ExplanationAnswer, explanation_of


class Question(NamedTuple):
    """An image to decide on, and whether to say why."""

    image: Tensor  # (C, H, W) uint8, or float32 in [0, 1]
    explain: bool = True


class Judged(NamedTuple):
    """The verdict on an image."""

    record: Record
    logits: Tensor  # (n_classes,) of the classifier, on the CPU
    explanation: ExplanationAnswer | None  # None where nobody asked


@dataclass
class Predictor:
    """Judges batches of questions; one thread calls it."""

    detector: FailureDetector  # fitted and calibrated
    class_names: Sequence[str] | None = None  # index -> name; numbers where None

    @torch.inference_mode()
    def __call__(self, questions: Sequence[Question]) -> list[Judged]:
        """One verdict a question."""
        images = torch.stack([as_unit(question.image) for question in questions]).to(self.detector.device)
        outputs = self.detector.extractor(images)
        explained, verdict = self._explain(questions, outputs)
        records = records_of(outputs, verdict).records(self.class_names)
        logits = verdict.logits.detach().cpu()
        return [Judged(record, logits[i], explained.get(i)) for i, record in enumerate(records)]

    def _explain(
        self, questions: Sequence[Question], outputs: Features
    ) -> tuple[dict[int, ExplanationAnswer], Verdict]:
        """The explanations that are asked for, by row, and the verdicts of all rows."""
        rows = [i for i, question in enumerate(questions) if question.explain]
        if not rows:
            return {}, self.detector(outputs)
        chosen = outputs.rows(torch.tensor(rows, device=outputs.logits.device))
        found = self.detector.explain(chosen, self.class_names, n_nearest=0)
        return dict(zip(rows, map(explanation_of, found), strict=True)), self.detector(outputs)
