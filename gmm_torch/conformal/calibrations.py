"""The calibrations by name, for files."""

from typing import Any

from gmm_torch.conformal.calibration import Calibration
from gmm_torch.conformal.conditional_calibration import ConditionalCalibration
from gmm_torch.conformal.mondrian import MondrianCalibration

CALIBRATIONS: dict[str, type[Calibration | MondrianCalibration]] = {
    each.name: each for each in (Calibration, ConditionalCalibration, MondrianCalibration)
}


def make_calibration(name: str, **options: Any) -> Calibration | MondrianCalibration:
    """A calibration without scores.

    Raises:
        ValueError: an unknown name.
    """
    if name not in CALIBRATIONS:
        raise ValueError(f"calibration: expected one of {', '.join(CALIBRATIONS)}; got {name!r}")
    return CALIBRATIONS[name](**options)
