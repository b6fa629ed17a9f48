"""Conformal p-values, calibrations, selection and drift; a new calibration is one new file, found by its `name`."""

from gmm_torch.conformal.calibration import CALIBRATIONS, Calibration, Unlabelled, make_calibration
from gmm_torch.registry import import_modules

__all__ = ["CALIBRATIONS", "Calibration", "Unlabelled", "make_calibration"]

import_modules(__name__, __path__)
