"""Scoring images under a Lightning Trainer."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import lightning
import torch
from torch import Tensor

from gmm_torch.detection import FailureDetector, FeatureExtractor, Outputs
from gmm_torch.detection.scores import make_score
from gmm_torch.em.batches import first_of


class Scored(NamedTuple):
    """What is kept of N scored images, on the CPU.

    Attributes:
        prediction: (N,) int64.
        score: (N,), higher = more typical.
        p_value: (N,).
        accept: (N,) bool.
        max_softmax: (N,), the baseline on the same images.
        component: (N,) int64, the first mixture's most probable component; -1 for a score without a mixture.
        components: (N, J) int64, the most probable component of each of the J mixtures.
        features: (N, D) of the last layer, for pictures.
    """

    prediction: Tensor
    score: Tensor
    p_value: Tensor
    accept: Tensor
    max_softmax: Tensor
    component: Tensor
    components: Tensor
    features: Tensor


class OutputsModule(lightning.LightningModule):
    """Hands on the logits and features of a loader's images, batch by batch, by `trainer.predict`.

    Args:
        extractor: of the detector.
        take: what is done with those of a batch.
        labels: whether the labels of batches (x, label, ...) are kept, for a score that was told to use them.
    """

    def __init__(self, extractor: FeatureExtractor, take: Callable[[Outputs], object], *, labels: bool = False) -> None:
        super().__init__()
        self.take = take
        self.extractor = extractor
        self.labels = labels

    def predict_step(self, batch: Tensor | list[Tensor], batch_idx: int) -> int:
        """Hand on the outputs of a batch x or (x, ...), and say how many there are."""
        x = first_of(batch)
        outputs = self.extractor(x).with_keys_of(x)
        self.take(outputs._replace(labels=batch[1]) if self.labels else outputs)
        return len(x)

    def on_predict_end(self) -> None:
        """Let go of what took the outputs: a Trainer keeps its last module."""
        del self.take


class EvaluationModule(lightning.LightningModule):
    """Verdicts on a loader's images, with the baseline beside them, by `trainer.predict`."""

    detector: FailureDetector

    def __init__(self, detector: FailureDetector) -> None:
        super().__init__()
        self.detector = detector
        self.baseline = make_score("max_softmax")

    def predict_step(self, batch: Tensor | list[Tensor], batch_idx: int) -> Scored:
        """`Scored` of a batch x or (x, ...)."""
        outputs = self.detector.extractor(first_of(batch))
        verdict = self.detector.judge(outputs)
        components = self.detector.score.components(outputs)
        component = components[:, 0] if components.shape[1] else torch.full_like(verdict.prediction, -1)
        features = list(outputs.features.values())[-1][:, 0]
        kept = (verdict.prediction, verdict.score, verdict.p_value, verdict.accept)
        scored = Scored(*kept, self.baseline(outputs), component, components, features)
        return Scored(*(value.cpu() for value in scored))


def cat_scored(parts: list[Scored]) -> Scored:
    """Several batches, one after another."""
    return Scored(*(torch.cat(values) for values in zip(*parts, strict=True)))


def split_scored(scored: Scored, sizes: Sequence[int]) -> list[Scored]:
    """The parts that `cat_scored` put together."""
    return [Scored(*values) for values in zip(*(value.split(list(sizes)) for value in scored), strict=True)]
