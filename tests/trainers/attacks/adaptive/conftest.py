import pytest
import torch
from sklearn.datasets import load_digits

from gmm_torch.detector import FailureDetector
from gmm_torch.scores import make_score
from tests.trainers.attacks.networks import trained_network
from trainers.attacks.adaptive.threat_model import ThreatModel
from trainers.attacks.frozen import frozen

N_IMAGES = 24


@pytest.fixture(scope="session")
def digits():
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    return images, torch.tensor(bunch.target, dtype=torch.int64)


@pytest.fixture(scope="session")
def classifier(digits):
    return trained_network(*digits, n_training=900)


@pytest.fixture(scope="session")
def make_detector(classifier, digits):
    images, _ = digits

    def make(score="combined", calibration=None, **options):
        detector = FailureDetector(classifier, score=make_score(score, **options), calibration=calibration)
        return detector.fit([images[900:1100]]).calibrate([images[1100:1400]])

    return make


@pytest.fixture(scope="session")
def detector(make_detector):
    return make_detector(n_components=3)


@pytest.fixture(scope="session")
def make_threat(digits):
    images, labels = (part[1400:] for part in digits)

    def make(detector, n_images=N_IMAGES):
        with torch.no_grad():
            outputs = detector.extractor(images)
            verdict = detector(outputs)
        right = verdict.prediction == labels
        rows = right.nonzero()[:n_images, 0]
        others = (right & verdict.accept).nonzero()[:, 0]
        return ThreatModel(detector, images[rows], labels[rows], outputs.rows(rows), outputs.rows(others))

    return make


@pytest.fixture(scope="session")
def threat(make_threat, detector):
    with frozen(detector):
        yield make_threat(detector)
