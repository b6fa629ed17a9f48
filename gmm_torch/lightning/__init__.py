"""Callbacks and modules for a Lightning Trainer; the only room that imports Lightning."""

from gmm_torch.errors import DriftError
from gmm_torch.lightning.drift import DriftCallback, DriftWarning
from gmm_torch.lightning.failure_detection import FailureDetection
from gmm_torch.lightning.mixture_module import MixtureModule
from gmm_torch.lightning.online_mixture import OnlineMixtureMonitor
from gmm_torch.lightning.verdict_module import VerdictModule

__all__ = [
    "DriftCallback",
    "DriftError",
    "DriftWarning",
    "FailureDetection",
    "MixtureModule",
    "OnlineMixtureMonitor",
    "VerdictModule",
]
