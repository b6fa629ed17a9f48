"""What the detector says of an attack as its budget grows."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import ConcatDataset, TensorDataset

from gmm_torch.detection import FailureDetector
from trainers.attacks import AttackResult
from trainers.evaluation.budget_metrics import budget_metrics
from trainers.evaluation.predict import predict
from trainers.modules.evaluation_module import Scored, split_scored
from trainers.run.run import Run


def budget_curve_metrics(
    run: Run,
    detector: FailureDetector,
    budgets: Mapping[str, Sequence[AttackResult]],
    clean: Scored,
    labels: Tensor,
) -> dict[str, list[dict[str, Any]]]:
    """The content of metrics.json under `sweeps`: name -> `budget_metrics` of each budget.

    Args:
        run: of which.
        detector: applied to the successes.
        budgets: name -> results by rising budget.
        clean: the clean test images.
        labels: (N,) of them.
    """
    right = clean.prediction == labels
    found = {}
    for name, results in budgets.items():
        images: ConcatDataset[Any] = ConcatDataset([TensorDataset(result.images) for result in results])
        parts = split_scored(predict(run, detector, images, name), [result.n_success for result in results])
        found[name] = [
            budget_metrics(
                result,
                clean.score[right],
                part.score,
                part.accept,
                {"max_softmax": (clean.max_softmax[right], part.max_softmax)},
            )
            for result, part in zip(results, parts, strict=True)
        ]
    return found
