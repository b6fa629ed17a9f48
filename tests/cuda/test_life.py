"""A detector's whole life on a card: nothing mixes devices, verdicts never wait, and what else waits has a name."""

import copy

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gmm_torch import FailureDetector, GaussianMixture
from gmm_torch.conformal import CALIBRATIONS, make_calibration
from gmm_torch.conformal.weighted import WeightedScores
from gmm_torch.detector.onnx import save_onnx
from gmm_torch.features.projection import Projection
from gmm_torch.lightning import FailureDetection
from gmm_torch.lightning.mixture_module import MixtureModule
from gmm_torch.lightning.verdict_module import VerdictModule
from gmm_torch.mixture.options import EMOptions
from gmm_torch.scores import make_score
from tests.cuda.card import ALLOWED, CARD, ONCE, card
from tests.cuda.numbers import card_with_numbers

# What waits once in a fit or a calibration, whatever the number of batches, and what must look at a value.
LEARNING = {
    ("gmm_torch/features/trace.py", "rows_follow"): "which modules keep the order of three inputs",
    ("gmm_torch/features/trace.py", "<lambda>"): "that order comes from the host",
    ("gmm_torch/features/adapter.py", "check"): "whether the first batch got probabilities for logits",
    ("gmm_torch/features/features.py", "<dictcomp>"): "whether all inputs gave finite numbers",
    ("gmm_torch/features/sample.py", "_joined"): "how often equal inputs are repeated",
    ("gmm_torch/features/features.py", "sorted_by_content"): "whether inputs have to be brought into order",
    ("gmm_torch/scores/combined.py", "fit"): "weights of the parts come from the host",
    ("gmm_torch/scores/combined.py", "_affordable"): "so do the scales that are tried",
    ("gmm_torch/scores/feature_mixture.py", "warn_of_unused_components"): "a count of each component in use",
    ("gmm_torch/scores/feature_mixture.py", "concentration"): "whether to warn of it",
    ("gmm_torch/evaluation/rates.py", "class_counts"): "a count of each class in a component",
    ("gmm_torch/detector/detector.py", "_fit"): "an empty calibration comes to the device",
    ("gmm_torch/features/modes.py", "changed"): "what was made on the host comes to the device",
    ("gmm_torch/features/inputs.py", "of"): "on which scale the calibration images are",
    ("gmm_torch/detector/detector.py", "_check_inside"): "whether calibration inputs are like those of the fit",
    ("gmm_torch/detector/memory.py", "fit"): "how many inputs differ",
    ("gmm_torch/detector/memory.py", "n_among"): "whether they are those of the fit",
    ("gmm_torch/checks.py", "check_finite_scores"): "whether each has a score",
    ("gmm_torch/detector/weights.py", "fingerprint"): "the classifier's weights are hashed on the host",
}
# What waits in every batch.
STREAMING = {("gmm_torch/detector/detector.py", "<lambda>"): "inputs that lie elsewhere come to the device"}
# What waits where a file is written or read.
FILES = {
    ("gmm_torch/detector/weights.py", "fingerprint"): "the classifier's weights are hashed on the host",
    ("gmm_torch/detector/file.py", "<dictcomp>"): "tensors are written from the host",
    ("gmm_torch/features/modes.py", "changed"): "a detector is read on the host and comes to the device",
}
EM = {place: why for place, why in (ALLOWED | ONCE).items() if "batches" not in place[0] and "low_rank" not in place[0]}


@pytest.fixture(scope="module")
def data():
    """A small classifier and images."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3)), torch.rand(600, 1, 8, 8)


def briefly(mixture, points):
    """Three iterations: what they do is the same as that of many."""
    return mixture.fit(points, max_iter=3, reg_covar=1e-2, shrinkage="oas")


@pytest.mark.filterwarnings("ignore::gmm_torch.errors.ComponentsWarning", "ignore::gmm_torch.errors.ConvergenceWarning")
def test_fit_calibrate_verdict_and_file_give_what_they_give_on_the_host(data, tmp_path):
    classifier, x = data

    def learned(classifier):
        detector = FailureDetector(classifier, n_components=2, views=1)
        return detector.fit(x[:300].split(100), fitter=briefly).calibrate(x[300:].split(100))

    expected = learned(classifier)(x[:9])
    with card_with_numbers() as watch:
        allowed = LEARNING | STREAMING | EM
        own, there = copy.deepcopy(classifier).to(CARD), x[:9].to(CARD)
        watch.begin(allowed)
        detector = learned(own)
        assert set(watch.waits) | {("gmm_torch/mixture/e_step.py", "flagged")} == set(allowed)
        watch.begin({})
        verdict = detector(there)
        assert {value.device for value in verdict} == {CARD}
        assert detector.margin(there).device == CARD
        watch.begin(FILES)
        detector.save(tmp_path / "detector.safetensors")
        again = FailureDetector.load(tmp_path / "detector.safetensors", detector.classifier)
        assert set(watch.waits) == set(FILES)
        watch.begin({})
        loaded = again(there)
        watch.begin(None)
        assert torch.equal(loaded.p_value, verdict.p_value)
        torch.testing.assert_close(verdict.score.cpu(), expected.score, rtol=1e-3, atol=1e-3)
        assert torch.equal(verdict.prediction.cpu(), expected.prediction)


def test_a_stream_waits_for_its_batches_and_as_often_for_the_rest_however_many_they_are(data):
    classifier, x = data
    seen = []
    with card_with_numbers() as watch:
        detector = FailureDetector(copy.deepcopy(classifier).to(CARD), views=1)
        for n in (2, 2, 6):
            watch.begin(None)
            detector.features(x[: 10 * n].split(10))
            seen.append(watch.waits)
    assert dict(seen[2] - seen[1]) == dict.fromkeys(STREAMING, 4)


@pytest.mark.parametrize("kind", CALIBRATIONS)
def test_verdicts_and_margins_never_wait_whatever_the_calibration(data, kind):
    x = data[1] - 0.5
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 3, bias=False))
    batches = list(zip(x.split(100), classifier(x).argmax(1).split(100), strict=True))
    options = {"n_classes": 3} if kind in ("mondrian", "label_shift") else {}
    calibration = make_calibration(kind, **options)
    score = make_score("max_softmax")
    detector = FailureDetector(classifier, score=score, alpha=0.1, calibration=calibration).fit(batches[:1])
    if isinstance(calibration, WeightedScores):
        detector.adapt(batches[1:2], batches[2:3])
    detector.calibrate(batches[3:])
    with card_with_numbers() as watch:
        detector.to(CARD)
        there = x[:9].to(CARD)
        detector(there)  # hashes the weights that have moved
        watch.begin({})
        verdict = detector(there)
        assert {value.device for value in verdict} == {CARD}
        assert detector.margin(there).device == CARD


def test_principal_directions_start_alike_on_every_device():
    x = torch.randn(200, 40, generator=torch.Generator().manual_seed(0))
    expected = Projection(40, 8).fit(x).basis
    with card_with_numbers():
        found = Projection(40, 8).to(CARD).fit(x.to(CARD)).basis
        assert found.device == CARD
        torch.testing.assert_close(found.cpu(), expected)


def test_a_detector_on_a_card_is_traced_for_onnx_on_the_card_alone(data, monkeypatch, tmp_path):
    classifier, x = data
    detector = FailureDetector(copy.deepcopy(classifier), score=make_score("log_likelihood", n_components=2), views=1)
    detector.fit([x[:300]]).calibrate([x[300:]])
    detector._weights_known = None  # they are hashed on the host
    programs = []

    class Program:
        def save(self, path):
            path.touch()

    def export(model, args, *, dynamic_shapes, **_):
        programs.append(torch.export.export(model, args, dynamic_shapes=dynamic_shapes).run_decompositions())
        return Program()

    monkeypatch.setattr(torch.onnx, "export", export)
    with card(monkeypatch, 300) as watch:
        for module in detector.modules():
            for held in (module._parameters, module._buffers):
                for name, value in held.items():
                    if value is not None:
                        there = torch.empty(value.shape, dtype=value.dtype, device=CARD)
                        held[name] = nn.Parameter(there, False) if isinstance(value, nn.Parameter) else there
        watch.begin({})
        save_onnx(detector, torch.rand(5, 1, 8, 8, device=CARD), tmp_path / "detector.onnx")
    found = [node.meta.get("val") for node in programs[0].graph.nodes]
    assert {value.device for value in found if isinstance(value, torch.Tensor)} == {CARD}


class There(CPUAccelerator):
    """An accelerator for a device that is not there."""

    def setup_device(self, device):
        pass


def trainer(**options):
    """A Trainer on the card; an inference tensor can't be a subclass."""
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    strategy = SingleDeviceStrategy(device=CARD, accelerator=There())
    return Trainer(strategy=strategy, inference_mode=False, **quiet, **options)


class Classifying(LightningModule):
    """A module whose classifier is validated."""

    def __init__(self, net, x):
        super().__init__()
        self.net, self.inputs = net, TensorDataset(x, torch.arange(len(x)) % 3)

    def validation_step(self, batch, _):
        assert self.net(batch[0]).device == CARD

    def loader(self, start, stop):
        return DataLoader(torch.utils.data.Subset(self.inputs, range(start, stop)), batch_size=100)

    def fitting(self):
        return self.loader(0, 200)

    def calibration_dataloader(self):
        return self.loader(200, 500)

    def val_dataloader(self):
        return self.loader(500, 600)


def test_a_trainer_fits_calibrates_evaluates_judges_and_runs_em_on_the_card(data):
    classifier, x = data
    with card_with_numbers() as watch:

        def make(net):
            return FailureDetector(net, score=make_score("max_softmax"), views=1)

        callback = FailureDetection(fitting="fitting", classifier="net", detector=make)
        module = Classifying(copy.deepcopy(classifier), x)
        (found,) = trainer(callbacks=[callback]).validate(module, verbose=False)
        assert found["detection/val/errors/n"] > 0
        verdicts = trainer().predict(VerdictModule(callback.detector), DataLoader(x[:20], batch_size=10))
        assert [len(each.p_value) for each in verdicts] == [10, 10]
        mixture = GaussianMixture(2, 4)
        em = MixtureModule(mixture, torch.randn(500, 4), EMOptions(max_iter=6, tol=0.0), batch_size=250)
        watch.begin(None)
        trainer(max_epochs=10).fit(em)
        assert watch.looks["convergence"] == 0
        assert mixture.n_iter == 6
