"""Classifier and detector as one file: `torch.export`, and ONNX for runtimes without torch."""

import tempfile
from pathlib import Path

import onnxruntime
import torch
from sklearn.datasets import load_digits
from torch import nn

from gmm_torch import FailureDetector
from gmm_torch.detector.onnx import save_onnx
from gmm_torch.scores import make_score


def main(epochs: int = 10, score: str = "combined") -> dict[str, float]:
    """Verdicts of three runtimes on the same digits: how many differ, and by how much p-values do."""
    torch.manual_seed(0)
    data = load_digits()
    order = torch.randperm(len(data.target))
    x, y = torch.tensor(data.images, dtype=torch.float32)[order, None] / 16, torch.tensor(data.target)[order]
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10)
    )
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(600).split(50):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimiser.step()
    detector = FailureDetector(net.eval(), score=make_score(score, n_components=10), views=1)
    detector.fit(x[600:1000].split(100)).calibrate(x[1000:1400].split(100)).eval()
    images = torch.cat([x[1400:], torch.rand(100, 1, 8, 8)])
    with torch.no_grad():
        verdict = detector(images)

    with tempfile.TemporaryDirectory() as folder:
        shapes = {"x": {0: torch.export.Dim("batch", min=1, max=4096)}}
        program = torch.export.export(detector, (images[:2],), dynamic_shapes=shapes)
        torch.export.save(program, Path(folder) / "detector.pt2")
        exported = torch.export.load(Path(folder) / "detector.pt2").module()(images)
        save_onnx(detector, images[:2], Path(folder) / "detector.onnx")
        session = onnxruntime.InferenceSession(Path(folder) / "detector.onnx")
        names = ["p_value", "accept"]
        onnx = dict(zip(names, map(torch.from_numpy, session.run(names, {"x": images.numpy()})), strict=True))
        size = (Path(folder) / "detector.onnx").stat().st_size
    found = {
        "refused digits": float((~onnx["accept"][:-100]).double().mean()),
        "refused noise": float((~onnx["accept"][-100:]).double().mean()),
        "other verdicts, torch.export": int((exported.accept != verdict.accept).sum()),
        "other verdicts, onnxruntime": int((onnx["accept"] != verdict.accept).sum()),
        "largest difference of p, onnxruntime": float((onnx["p_value"] - verdict.p_value).abs().max()),
    }
    print(f"{len(images)} images, {size / 1e6:.1f} MB of ONNX, seed 0: {found}")
    return found


if __name__ == "__main__":
    main()
