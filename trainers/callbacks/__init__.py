"""Lightning callbacks."""

from trainers.callbacks.drift import DriftError, DriftMonitor, DriftWarning
from trainers.callbacks.online_mixture import OnlineMixtureMonitor

__all__ = ["DriftError", "DriftMonitor", "DriftWarning", "OnlineMixtureMonitor"]
