"""Errors with which callbacks end a run."""


class DriftError(RuntimeError):
    """The inputs no longer look like the calibration set, and the run was to stop then."""
