"""Metrics of failure detection that torchmetrics does not have; AUROC and average precision are its own."""

from gmm_torch.metrics.augrc import AUGRC
from gmm_torch.metrics.aurc import AURC
from gmm_torch.metrics.evaluation import evaluate
from gmm_torch.metrics.fpr_at_tpr import FPRAtTPR
from gmm_torch.metrics.martingale import ExchangeabilityMartingale

__all__ = ["AUGRC", "AURC", "ExchangeabilityMartingale", "FPRAtTPR", "evaluate"]
