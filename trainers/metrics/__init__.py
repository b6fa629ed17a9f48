"""Metrics of failure detection that torchmetrics does not have; AUROC and average precision are its own."""

from trainers.metrics.augrc import AUGRC
from trainers.metrics.aurc import AURC
from trainers.metrics.fpr_at_tpr import FPRAtTPR
from trainers.metrics.martingale import ExchangeabilityMartingale

__all__ = ["AUGRC", "AURC", "ExchangeabilityMartingale", "FPRAtTPR"]
