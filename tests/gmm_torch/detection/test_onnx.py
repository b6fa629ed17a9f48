"""Classifier and detector without torch."""

import pytest
import torch

from gmm_torch import FailureDetector, NotFittedError
from gmm_torch.detection.onnx import OUTPUTS, TRANSLATIONS, save_onnx
from gmm_torch.detection.scores import make_score
from tests.gmm_torch.detection.conftest import batches, images

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.export


@pytest.mark.filterwarnings("ignore")  # the exporter's own
@pytest.mark.parametrize("name", ["log_likelihood"])
def test_onnxruntime_gives_the_same_verdicts_at_any_batch_size(name, net, tmp_path):
    score = make_score(name)
    detector = FailureDetector(net, score=score).fit(batches(300, 1)).calibrate(batches(300, 2))
    save_onnx(detector, images(4, 0), tmp_path / "detector.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "detector.onnx")
    assert [output.name for output in session.get_outputs()] == list(OUTPUTS)
    for x in (images(1, 3), images(50, 4), images(50, 5) * 10):
        found = session.run(None, {"x": x.numpy()})
        verdict = detector(x)
        # where a score nearly ties with one of a calibration image, its last digits decide the rank
        nearest = (verdict.score[:, None] - detector.calibration.scores).abs().amin(1)
        clear = nearest > 1e-4 * verdict.score.abs()
        assert clear.float().mean() > 0.7
        for name, other, eager in zip(OUTPUTS, found, verdict, strict=True):
            rows = clear if name in ("p_value", "accept") else torch.ones_like(clear)
            torch.testing.assert_close(torch.from_numpy(other)[rows], eager[rows], rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_inputs_far_out_are_refused_by_the_file_too(tmp_path):
    """`depth_consistency` falls without end for inputs that the classifier is sure of and the layers before are not."""
    torch.manual_seed(0)
    stages = [torch.nn.Sequential(torch.nn.Conv2d(a, b, 3, 2, 1), torch.nn.ReLU()) for a, b in ((1, 4), (4, 8), (8, 8))]
    net = torch.nn.Sequential(*stages, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 3))
    x = torch.rand(700, 1, 16, 16)
    detector = FailureDetector(net, score=make_score("depth_consistency", n_components=2), alpha=0.1)
    detector.fit(x[:300].split(100)).calibrate(x[300:600].split(100))
    save_onnx(detector, x[:4], tmp_path / "detector.onnx")
    odd = torch.cat([x[600:], *(x[600:640] * factor for factor in (3, 10, 30, 100))])
    verdict = detector(odd)
    assert verdict.score.min() < -40  # where the exporter's own function is not a number
    found = onnxruntime.InferenceSession(tmp_path / "detector.onnx").run(None, {"x": odd.numpy()})
    score = torch.from_numpy(found[OUTPUTS.index("score")])
    torch.testing.assert_close(score, verdict.score, rtol=1e-3, atol=1e-3)
    clear = (verdict.score[:, None] - detector.calibration.scores).abs().amin(1) > 1e-3
    assert torch.equal(torch.from_numpy(found[OUTPUTS.index("accept")])[clear], verdict.accept[clear])


def test_what_can_not_be_written_is_told_before(net, tmp_path):
    with pytest.raises(NotFittedError):
        save_onnx(FailureDetector(net), images(4, 0), tmp_path / "detector.onnx")
    with pytest.raises(ValueError, match="at least 2 inputs"):
        save_onnx(FailureDetector(net), images(1, 0), tmp_path / "detector.onnx")
    assert not list(tmp_path.iterdir())


class Operations(torch.nn.Module):
    """The two that the exporter lacks, of a parameter, as detectors use them."""

    def __init__(self, matrix, upper, right):
        super().__init__()
        self.matrix, self.upper, self.right = torch.nn.Parameter(matrix), upper, right

    def forward(self, x):
        solved = torch.linalg.solve_triangular(self.matrix, x.mT, upper=self.upper)
        ranks = torch.searchsorted(self.matrix.flatten().sort().values, x.contiguous(), right=self.right)
        rows = torch.searchsorted(self.matrix[:2].sort().values, x[:2].contiguous(), right=self.right)
        return solved, ranks, rows


class Both(torch.nn.Module):
    """Every operation, of an upper and of a lower matrix."""

    def __init__(self, matrix):
        super().__init__()
        self.upper, self.lower = Operations(matrix.triu(), True, True), Operations(matrix.tril(), False, False)

    def forward(self, x):
        return *self.upper(x), *self.lower(x)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", [3, 13])
def test_operations_that_onnx_lacks_are_translated(size, tmp_path):
    generator = torch.Generator().manual_seed(size)
    matrix = torch.randn(2, size, size, generator=generator)[0] + 3 * torch.eye(size)
    module = Both(matrix)
    x = torch.randn(4, size, generator=generator)
    x[0, 0] = matrix[0, 0]  # a tie
    torch.onnx.export(module, (x,), dynamo=True, custom_translation_table=TRANSLATIONS, verbose=False).save(
        tmp_path / "o.onnx"
    )
    found = onnxruntime.InferenceSession(tmp_path / "o.onnx").run(None, {"x": x.numpy()})
    for other, eager in zip(found, module(x), strict=True):
        torch.testing.assert_close(torch.from_numpy(other), eager.detach(), rtol=1e-5, atol=1e-5)
