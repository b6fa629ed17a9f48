"""From a classifier's features to a verdict; start at `detector.py`."""

from gmm_torch.detection.calibration import Calibration
from gmm_torch.detection.detector import FailureDetector, Verdict
from gmm_torch.detection.features import FeatureExtractor
from gmm_torch.detection.outputs import Outputs

__all__ = ["Calibration", "FailureDetector", "FeatureExtractor", "Outputs", "Verdict"]
