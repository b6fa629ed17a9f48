"""Metrics of failure detection that torchmetrics does not have; AUROC and average precision are its own."""

from gmm_torch.metrics.evaluation import evaluate
from gmm_torch.metrics.martingale import ExchangeabilityMartingale
from gmm_torch.metrics.of_scores import AUGRC, AURC, FPRAtTPR

__all__ = ["AUGRC", "AURC", "ExchangeabilityMartingale", "FPRAtTPR", "evaluate"]
