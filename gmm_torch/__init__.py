"""Gaussian mixtures on classifier features: p-values that say when a prediction should be refused."""

from gmm_torch.detector import Adapter, FailureDetector, Verdict
from gmm_torch.errors import (
    CalibrationWarning,
    ComponentsWarning,
    ConvergenceWarning,
    FileFormatError,
    InputsWarning,
    NotFittedError,
    PrecisionWarning,
)
from gmm_torch.mixture import GaussianMixture

__version__ = "0.1.0"

__all__ = [
    "Adapter",
    "CalibrationWarning",
    "ComponentsWarning",
    "ConvergenceWarning",
    "FailureDetector",
    "FileFormatError",
    "GaussianMixture",
    "InputsWarning",
    "NotFittedError",
    "PrecisionWarning",
    "Verdict",
    "__version__",
]
