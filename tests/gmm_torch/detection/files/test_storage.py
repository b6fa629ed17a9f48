"""Detector files."""

import torch
from safetensors import safe_open

from gmm_torch.detection.files.storage import DetectorFile, read_detector, write_detector


def test_equal_detectors_are_equal_files(tmp_path):
    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, 5, dtype=torch.float64), "c": torch.tensor([True])}
    file = DetectorFile({"score": "größer", "n": 3}, tensors)
    written = set()
    for i in range(20):  # the order of metadata in a file is drawn anew for each
        write_detector(tmp_path / f"{i}.safetensors", file)
        written.add((tmp_path / f"{i}.safetensors").read_bytes())
    assert len(written) == 1
    read = read_detector(tmp_path / "0.safetensors")
    assert read.spec == file.spec
    assert read.tensors.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(read.tensors[name], value)
        assert read.tensors[name].dtype == value.dtype
    with safe_open(tmp_path / "0.safetensors", framework="pt") as opened:
        assert opened.metadata()["spec"]
