"""Plain against weighted calibration, on test images as they would come from elsewhere."""

from typing import Any

import torch
from torch.utils.data import Subset

from gmm_torch.conformal.p_values import threshold_index
from gmm_torch.detector import FailureDetector
from gmm_torch.errors import WeightsError
from gmm_torch.evaluation.rates import interval
from trainers.data.images import LabelledImages
from trainers.evaluation.detection_metrics import share
from trainers.evaluation.predict import predict
from trainers.evaluation.weighing import Here, images_here, new_weights, weighted_detector
from trainers.records.record import Records
from trainers.run.run import Run

NONE = "none"  # the test images as they are
MIN_IMAGES = 20  # for weights to be learnt from, and as many to be judged


def shift_metrics(run: Run, detector: FailureDetector) -> dict[str, Any]:
    """The content of metrics.json under `shifts`; empty where the config names none.

    Of each set, and of the test images as they are, some images are judged, drawn at random, and as many others give
    the weights, without their labels.

    Returns:
        alpha, calibration (its name), rows: shift, kind; n; error_rate; plain, `rates` of the detector; weighted, those
        of the detector with weights and what these are worth (`effective_size`, `in_words`), or `reason`, why nothing
        can be promised.
    """
    if not run.shifts:
        return {}
    test, seed = run.data.test_images, run.cfg.seed
    sets: list[tuple[str, str, LabelledImages]] = [(NONE, "", test)]
    for name, shift in run.shifts.items():
        sets += [(name, kind, images) for kind, images in shift(test, seed).items()]
    here = images_here(run, detector)
    rows = [{"shift": name, "kind": kind, **_compared(run, detector, here, images)} for name, kind, images in sets]
    return {"alpha": detector.alpha, "calibration": new_weights(run).name, "rows": rows}


def _compared(run: Run, detector: FailureDetector, here: Here, images: LabelledImages) -> dict[str, Any]:
    n = len(images) // 2 if run.cfg.limit.shift is None else min(run.cfg.limit.shift, len(images) // 2)
    if n < MIN_IMAGES:
        raise ValueError(
            f"shift: expected at least {MIN_IMAGES} images to judge and as many to learn weights from; got {n}: raise "
            "limit.shift, or give a larger test set"
        )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(run.cfg.seed))
    judged, there = (part.sort().values for part in order[: 2 * n].split(n))
    labels, shown = images.targets[judged], Subset(images, judged.tolist())
    plain = predict(run, detector, shown, "images from elsewhere", labels)
    found = {"n": n, "error_rate": share(plain.wrong), "plain": rates(plain, detector.alpha)}
    calibration = new_weights(run)
    try:
        weighted = weighted_detector(run, detector, calibration, here, run.loader(Subset(images, there.tolist())))
    except WeightsError as error:
        return {**found, "weighted": {"reason": str(error)}}
    again = predict(run, weighted, shown, "the same images, with weights", labels)
    worth = {"effective_size": calibration.effective_size, "in_words": calibration.describe(run.data.class_names)}
    return {**found, "weighted": {**rates(again, detector.alpha), **worth}}


def rates(records: Records, alpha: float) -> dict[str, Any]:
    """What is refused of N labelled images, all of which come from where the promise is for.

    Returns:
        false_alarm_rate, the share refused, with a 95 % interval: at most alpha is promised; refusal_rate, of the
        wrong predictions; refusal_rate_at_alpha, the same with the largest threshold that refuses at most alpha of
        the right ones; None where there are no such predictions.
    """
    refused, wrong, p = ~records.accept, records.wrong, records.p_value.double()
    right = p[~wrong].sort().values
    at_alpha = share(p[wrong] < right[threshold_index(alpha, len(right) - 1)]) if len(right) else None
    return {
        "false_alarm_rate": share(refused),
        "false_alarm_interval": interval(int(refused.sum()), len(records)),
        "refusal_rate": share(refused[wrong]),
        "refusal_rate_at_alpha": at_alpha,
    }
