"""Errors that a caller may want to tell apart."""


class NotFittedError(RuntimeError):
    """A model was used before it was fitted or calibrated."""


class SolverError(RuntimeError):
    """An iteration did not settle where its result was needed."""


class DriftError(RuntimeError):
    """The inputs no longer look like the calibration set, and the run was to stop then."""


class FileFormatError(ValueError):
    """A file is truncated, of another version, or not what it was taken for."""


class WeightsError(ValueError):
    """Too few inputs to learn weights from, or weights that leave too little of a calibration set for a promise."""


class ConvergenceWarning(UserWarning):
    """EM stopped at `max_iter` before the log-likelihood settled."""


class PrecisionWarning(UserWarning):
    """A classifier ran in another precision than the one in which its detector was calibrated."""


class ComponentsWarning(UserWarning):
    """A mixture has fewer components in use than were asked for: too few inputs carry them, or one has nearly all."""


class CalibrationWarning(UserWarning):
    """Some calibration inputs are not new, so more good inputs than alpha may be refused."""


class LabelsWarning(UserWarning):
    """Labels were given to learn from, and they teach nothing."""


class WeightsWarning(UserWarning):
    """Weights leave so little of a calibration set that errors of the weights move the rate."""
