"""Lightning callbacks."""

from trainers.callbacks.drift import DriftError, DriftMonitor, DriftWarning

__all__ = ["DriftError", "DriftMonitor", "DriftWarning"]
