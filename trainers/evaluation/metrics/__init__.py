"""Metrics of failure detection that torchmetrics does not have; AUROC and average precision are its own."""

from trainers.evaluation.metrics.augrc import AUGRC
from trainers.evaluation.metrics.aurc import AURC
from trainers.evaluation.metrics.fpr_at_tpr import FPRAtTPR
from trainers.evaluation.metrics.martingale import ExchangeabilityMartingale

__all__ = ["AUGRC", "AURC", "ExchangeabilityMartingale", "FPRAtTPR"]
