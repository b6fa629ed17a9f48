"""Detector files."""

import json

import pytest
import torch
from safetensors import safe_open
from torch import nn

from gmm_torch import FailureDetector
from gmm_torch.detector.file import read_parts, write_parts
from gmm_torch.detector.weights import fingerprint
from gmm_torch.scores import make_score


def test_equal_detectors_are_equal_files(tmp_path):
    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, 5, dtype=torch.float64), "c": torch.tensor([True])}
    header = {"score": "größer", "n": 3}
    written = set()
    for i in range(20):  # the order of metadata in a file is drawn anew for each
        write_parts(tmp_path / f"{i}.safetensors", header, tensors)
        written.add((tmp_path / f"{i}.safetensors").read_bytes())
    assert len(written) == 1
    words, found = read_parts(tmp_path / "0.safetensors")
    assert json.loads(words) == header
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(found[name], value)
        assert found[name].dtype == value.dtype
    with safe_open(tmp_path / "0.safetensors", framework="pt") as opened:
        assert opened.metadata()["spec"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_detector_of_a_quantised_network_is_saved_and_loaded(tmp_path):
    def quantised(seed):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
        return torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)

    x = torch.randn(150, 6, generator=torch.Generator().manual_seed(0))
    score = make_score("log_likelihood", n_components=2)
    detector = FailureDetector(quantised(0), score=score, layers=["1"], alpha=0.1)
    detector.fit(x[:100].split(50)).calibrate(x[100:].split(50)).save(tmp_path / "d.safetensors")
    again = FailureDetector.load(tmp_path / "d.safetensors", quantised(0))
    assert torch.equal(again(x).p_value, detector(x).p_value)
    with pytest.raises(ValueError, match="classifier: its weights are not those"):
        FailureDetector.load(tmp_path / "d.safetensors", quantised(1))
    plain = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    assert fingerprint(quantised(0))["structure"] != fingerprint(plain)["structure"]
