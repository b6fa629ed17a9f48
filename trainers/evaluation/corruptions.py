"""Metrics of corrupted test images."""

from typing import Any

import torch
from torch.utils.data import ConcatDataset, Subset

from gmm_torch.detector import FailureDetector
from trainers.data.corruptions import SEVERITIES, CorruptedImages
from trainers.evaluation.detection_metrics import auroc_metrics, detection_metrics, share
from trainers.evaluation.predict import predict
from trainers.records.record import Records
from trainers.run.run import Run


def corruption_metrics(run: Run, detector: FailureDetector) -> dict[str, Any]:
    """The content of metrics.json under `corruptions`; empty where the config names none.

    The same images, drawn at random from the test split, are corrupted in every way.

    Returns:
        clean: `severity_metrics` of them as they are; kinds: name -> `severity_metrics` of each severity.
    """
    if not run.corruptions:
        return {}
    test, seed = run.data.test_images, run.cfg.seed
    chosen = torch.randperm(len(test), generator=torch.Generator().manual_seed(seed))[: run.cfg.limit.corruption]
    chosen = chosen.sort().values
    labels, n = test.targets[chosen], len(SEVERITIES)
    clean = predict(run, detector, Subset(test, chosen.tolist()), "images that are then corrupted", labels)
    right = clean.rows(~clean.wrong)
    kinds = {}
    for name, corruption in run.corruptions.items():
        images: ConcatDataset[Any] = ConcatDataset(
            [CorruptedImages(test, chosen, corruption, severity, seed) for severity in SEVERITIES]
        )
        records = predict(run, detector, images, f"{name} in {n} severities", labels.repeat(n))
        parts = zip(SEVERITIES, records.split([len(chosen)] * n), strict=True)
        kinds[name] = [severity_metrics(severity, part, right) for severity, part in parts]
    return {"clean": severity_metrics(0, clean, right), "kinds": kinds}


def severity_metrics(severity: int, records: Records, right: Records) -> dict[str, Any]:
    """Does the detector see the errors in N >= 1 corrupted images (0: as they are), and how much is left to predict?

    Returns:
        severity, n; error_rate; coverage, the share accepted; risk, the error rate among the accepted; refusal_rate,
        the share of the errors that are refused; fpr_at_95_clean_tpr, the share of them that is accepted where 95 % of
        `right` are; None where there are none; `auroc_metrics` of the errors against the rest.
    """
    wrong, accept = records.wrong, records.accept
    errors = records.score[wrong]
    fpr = detection_metrics(right.score, errors)["fpr_at_95_tpr"] if len(right) and len(errors) else None
    return {
        "severity": severity,
        "n": len(records),
        "error_rate": share(wrong),
        "coverage": share(accept),
        "risk": share(wrong[accept]),
        "refusal_rate": share(~accept[wrong]),
        "fpr_at_95_clean_tpr": fpr,
        **auroc_metrics(records.rows(~wrong), records.rows(wrong)),
    }
