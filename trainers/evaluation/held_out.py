"""Held-out log-likelihood of the mixtures, by which they may be chosen."""

from collections.abc import Mapping

import torch

from gmm_torch.detector import FailureDetector
from gmm_torch.features.features import Chunks
from trainers.evaluation.split_outputs import split_outputs
from trainers.run.run import Run


def held_out_log_likelihood(run: Run, detector: FailureDetector) -> dict[str, float]:
    """Mean log-likelihood of the validation images' features under each mixture of the score, in nats.

    The validation images have no part in fitting or calibrating, and no failure is looked at, so a mixture may be
    chosen by it. Comparable between mixtures of the same features: the same classifier, layers and score.

    Returns:
        by mixture; empty for a score without one.
    """
    models = detector.score.models()
    if not models:
        return {}
    found = Chunks(
        lambda outputs: torch.stack([model.mixture.log_prob(model.points(outputs)) for model in models.values()])
    )
    with torch.no_grad():
        split_outputs(run, detector, "validation", found.add)
        means = torch.cat(found.end(), dim=1).double().mean(1)
    return dict(zip(models, means.tolist(), strict=True))


def objective(log_likelihood: Mapping[str, float]) -> float | None:
    """The value of a job, to be maximised: the sum over the mixtures; None where there are none."""
    return sum(log_likelihood.values()) if log_likelihood else None
