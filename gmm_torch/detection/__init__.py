"""From a classifier's features to a verdict; start at `detector.py`."""

from gmm_torch.classifier.adapter import Adapter
from gmm_torch.conformal.calibration import Calibration
from gmm_torch.detection.detector import FailureDetector
from gmm_torch.detection.explanation.component_report import ComponentReport
from gmm_torch.detection.explanation.explanation import Explanation
from gmm_torch.detection.features.extractor import FeatureExtractor
from gmm_torch.detection.features.outputs import Outputs
from gmm_torch.detection.verdict import Verdict

__all__ = [
    "Adapter",
    "Calibration",
    "ComponentReport",
    "Explanation",
    "FailureDetector",
    "FeatureExtractor",
    "Outputs",
    "Verdict",
]
