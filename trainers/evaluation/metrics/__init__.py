"""Metrics of failure detection that torchmetrics does not have; AUROC and average precision are its own."""

from trainers.evaluation.metrics.martingale import ExchangeabilityMartingale
from trainers.evaluation.metrics.of_scores import AUGRC, AURC, FPRAtTPR

__all__ = ["AUGRC", "AURC", "ExchangeabilityMartingale", "FPRAtTPR"]
