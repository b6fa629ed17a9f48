"""Classifier and detector without torch."""

import pytest
import torch

from gmm_torch import FailureDetector, NotFittedError
from gmm_torch.detector.onnx import OUTPUTS, TRANSLATIONS, save_onnx
from gmm_torch.scores import make_score
from tests.gmm_torch.conftest import images

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.export


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_onnxruntime_gives_the_same_verdicts_at_any_batch_size_and_far_out(tmp_path):
    """`depth_consistency` falls without end for inputs that the classifier is sure of and the layers before are not."""
    torch.manual_seed(0)
    stage = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, 2, 1), torch.nn.ReLU())
    net = torch.nn.Sequential(stage, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3))
    x = torch.rand(700, 1, 16, 16)
    detector = FailureDetector(net, score=make_score("depth_consistency", n_components=2), alpha=0.1)
    detector.fit(x[:300].split(100)).calibrate(x[300:600].split(100))
    save_onnx(detector, x[:4], tmp_path / "detector.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "detector.onnx")
    assert [output.name for output in session.get_outputs()] == list(OUTPUTS)
    odd = torch.cat([x[600:], *(x[600:640] * factor for factor in (3, 10, 30, 100))])
    assert detector(odd).score.min() < -40
    for some in (x[600:601], odd):
        found = session.run(None, {"x": some.numpy()})
        verdict = detector(some)
        # where a score nearly ties with one of a calibration image, its last digits decide the rank
        clear = (verdict.score[:, None] - detector.calibration.scores).abs().amin(1) > 1e-3
        assert clear.float().mean() > 0.7
        for name, other, eager in zip(OUTPUTS, found, verdict, strict=True):
            rows = clear if name in ("p_value", "accept") else torch.ones_like(clear)
            torch.testing.assert_close(torch.from_numpy(other)[rows], eager[rows], rtol=1e-3, atol=1e-3)


def test_what_can_not_be_written_is_told_before(net, tmp_path):
    with pytest.raises(NotFittedError):
        save_onnx(FailureDetector(net), images(4, 0), tmp_path / "detector.onnx")
    with pytest.raises(ValueError, match="at least 2 inputs"):
        save_onnx(FailureDetector(net), images(1, 0), tmp_path / "detector.onnx")
    assert not list(tmp_path.iterdir())


class Operations(torch.nn.Module):
    """The two that the exporter lacks, and one of its own that is wrong, of a parameter, as detectors use them."""

    def __init__(self, matrix, upper, right):
        super().__init__()
        self.matrix, self.upper, self.right = torch.nn.Parameter(matrix), upper, right

    def forward(self, x):
        solved = torch.linalg.solve_triangular(self.matrix, x.mT, upper=self.upper)
        ranks = torch.searchsorted(self.matrix.flatten().sort().values, x.contiguous(), right=self.right)
        rows = torch.searchsorted(self.matrix[:2].sort().values, x[:2].contiguous(), right=self.right)
        far = 1e5 * x.clamp(max=0) - 1e5
        sums = [torch.logsumexp(torch.where(x > 0, -torch.inf, far), 1, keepdim=keep) for keep in (False, True)]
        return solved, ranks, rows, *sums


class All(torch.nn.Module):
    """Every operation, of an upper and of a lower matrix, of two sizes: the input is (n, 3 + 13)."""

    def __init__(self, small, large):
        super().__init__()
        self.small = torch.nn.ModuleList([Operations(small.triu(), True, True), Operations(small.tril(), False, False)])
        self.large = torch.nn.ModuleList([Operations(large.triu(), True, False), Operations(large.tril(), False, True)])

    def forward(self, x):
        parts = zip((self.small, self.large), x.split([3, 13], dim=1), strict=True)
        return [found for operations, part in parts for each in operations for found in each(part)]


@pytest.mark.filterwarnings("ignore")
def test_operations_that_onnx_lacks_are_translated(tmp_path):
    generator = torch.Generator().manual_seed(3)
    small, large = (torch.randn(n, n, generator=generator) + 3 * torch.eye(n) for n in (3, 13))
    module = All(small, large)
    x = torch.randn(4, 16, generator=generator)
    x[0, 0], x[0, 3] = small[0, 0], large[0, 0]  # ties
    x[1] = x[1].abs()  # a row of minus infinity
    torch.onnx.export(module, (x,), dynamo=True, custom_translation_table=TRANSLATIONS, verbose=False).save(
        tmp_path / "o.onnx"
    )
    found = onnxruntime.InferenceSession(tmp_path / "o.onnx").run(None, {"x": x.numpy()})
    for other, eager in zip(found, module(x), strict=True):
        torch.testing.assert_close(torch.from_numpy(other), eager.detach(), rtol=1e-5, atol=1e-5)
