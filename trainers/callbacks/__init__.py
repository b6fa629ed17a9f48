"""Lightning callbacks."""

from trainers.callbacks.drift import DriftError, DriftMonitor, DriftWarning
from trainers.callbacks.end_on_sigterm import EndOnSigterm
from trainers.callbacks.epoch_seeds import EpochSeeds
from trainers.callbacks.online_mixture import OnlineMixtureMonitor
from trainers.callbacks.pass_checkpoint import PassCheckpoint
from trainers.callbacks.resumable_checkpoint import ResumableCheckpoint

__all__ = [
    "DriftError",
    "DriftMonitor",
    "DriftWarning",
    "EndOnSigterm",
    "EpochSeeds",
    "OnlineMixtureMonitor",
    "PassCheckpoint",
    "ResumableCheckpoint",
]
