"""From a classifier's features to a verdict; start at `detector.py`."""

from gmm_torch.conformal.calibration import Calibration
from gmm_torch.detector.component_report import ComponentReport
from gmm_torch.detector.detector import FailureDetector
from gmm_torch.detector.explanation import Explanation
from gmm_torch.detector.verdict import Verdict
from gmm_torch.features.adapter import Adapter
from gmm_torch.features.extractor import FeatureExtractor
from gmm_torch.features.features import Features

__all__ = [
    "Adapter",
    "Calibration",
    "ComponentReport",
    "Explanation",
    "FailureDetector",
    "FeatureExtractor",
    "Features",
    "Verdict",
]
