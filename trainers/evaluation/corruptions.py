"""What the detector says of corrupted test images."""

from typing import Any

import torch
from torch.utils.data import ConcatDataset, Subset

from gmm_torch.detection import FailureDetector
from trainers.data.corruptions import SEVERITIES, CorruptedImages
from trainers.evaluation.predict import judge
from trainers.evaluation.severity_metrics import severity_evidence
from trainers.modules.evaluation_module import Scored, split_scored
from trainers.run.run import Run


def corruption_metrics(run: Run, detector: FailureDetector) -> dict[str, Any]:
    """The content of metrics.json under `corruptions`; empty where the config names none.

    The same images, drawn at random from the test split, are corrupted in every way.

    Returns:
        clean: `severity_evidence` of them as they are; kinds: name -> `severity_evidence` of each severity.
    """
    if not run.corruptions:
        return {}
    test, seed = run.data.test_images, run.cfg.seed
    chosen = torch.randperm(len(test), generator=torch.Generator().manual_seed(seed))[: run.cfg.limit.corruption]
    chosen = chosen.sort().values
    labels = test.targets[chosen]

    def evidence(severity: int, part: Scored) -> dict[str, Any]:
        wrong = part.prediction != labels
        return severity_evidence(severity, part.score, wrong, part.accept, {"max_softmax": part.max_softmax})

    kinds = {}
    for name, corruption in run.corruptions.items():
        images: ConcatDataset[Any] = ConcatDataset(
            [CorruptedImages(test, chosen, corruption, severity, seed) for severity in SEVERITIES]
        )
        scored = judge(run, detector, images, f"{name} in {len(SEVERITIES)} severities")
        parts = split_scored(scored, [len(chosen)] * len(SEVERITIES))
        kinds[name] = [evidence(severity, part) for severity, part in zip(SEVERITIES, parts, strict=True)]
    clean = judge(run, detector, Subset(test, chosen.tolist()), "the same images as they are")
    return {"clean": evidence(0, clean), "kinds": kinds}
