"""Errors and warnings."""

import sys
import warnings

# Packages whose frames lie between a caller's line and the place that warns.
_BETWEEN = ("contextlib", "gmm_torch", "joblib", "lightning", "sklearn", "torch", "transformers")


class NotFittedError(RuntimeError):
    """A model was used before it was fitted or calibrated."""


class SolverError(RuntimeError):
    """An iteration did not settle where its result was needed."""


class DriftError(RuntimeError):
    """The inputs no longer look like the calibration set, and `stop=True`."""


class FileFormatError(ValueError):
    """A file is truncated, of another version, or of another kind."""


class WeightsError(ValueError):
    """Too few inputs to learn weights from, or weights that leave too little of a calibration set for a promise."""


class InputsError(ValueError):
    """A classifier failed on inputs that look other than those it was meant for; the message gives the fix."""


class ConvergenceWarning(UserWarning):
    """EM stopped at `max_iter` before the log-likelihood settled."""


class PrecisionWarning(UserWarning):
    """A classifier ran in another precision than the one in which its detector was calibrated."""


class InputsWarning(UserWarning):
    """Inputs look other than those that the detector was calibrated on, by size, or type or range of their numbers."""


class ComponentsWarning(UserWarning):
    """A mixture has fewer components in use than were asked for: too few inputs carry them, or one has nearly all."""


class CalibrationWarning(UserWarning):
    """Some calibration inputs are not new, so more good inputs than alpha may be refused."""


class LabelsWarning(UserWarning):
    """Labels were given to learn from, and they teach nothing."""


class WeightsWarning(UserWarning):
    """Weights leave so little of a calibration set that errors of the weights move the rate."""


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the caller's line, skipping our frames and those of the packages in `_BETWEEN`."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and str(frame.f_globals.get("__name__")).partition(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
