"""Explanations of verdicts."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from gmm_torch.detector import FailureDetector
from gmm_torch.detector.explanation import Explanation
from trainers.evaluation.pictures import items, picture
from trainers.run.run import Run

SAME_IMAGES = 0.95  # share of equal predictions from which images count as those that a detector remembers


def explain(
    run: Run, detector: FailureDetector, images: Mapping[str, Dataset[Any]], rows: Sequence[int]
) -> dict[int, Explanation]:
    """Explanations of the chosen rows."""
    if not rows:
        return {}
    chosen = items(images, rows)
    batch = torch.stack(list(chosen.values())).to(detector.device)
    return dict(zip(chosen, detector.explain(batch, run.data.class_names, n_features=3), strict=True))


def neighbours(run: Run, detector: FailureDetector, explanations: Iterable[Explanation]) -> dict[int, Any]:
    """The fitting images that explanations name; none where the detector was fitted to other images than the run's.

    Other images show by their number, or by predictions that are not those that the detector remembers.
    """
    facts = [each.mixtures[each.leading] for each in explanations if each.leading is not None]
    predicted = {position: prediction for each in facts for position, _, prediction in each.nearest}
    dataset = run.data.mixture_dataloader().dataset
    if not predicted or len(dataset) != detector.n_fitted:  # type: ignore[arg-type]
        return {}
    images = {position: dataset[position][0] for position in predicted}
    with torch.no_grad():
        logits = detector.extractor(torch.stack(list(images.values())).to(detector.device)).own_logits
    agree = logits.argmax(1).cpu() == torch.tensor(list(predicted.values()))
    if float(agree.double().mean()) < SAME_IMAGES:
        return {}
    return {position: picture(image) for position, image in images.items()}
