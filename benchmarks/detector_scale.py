"""Peak memory of fitting, calibrating a detector and reporting on its components against images, classes and width.

    OMP_NUM_THREADS=1 python benchmarks/detector_scale.py [--largest 1000000]

The network is cheap to run and has the widths of a ResNet-50's last three stages, 512, 1,024 and 2,048, or one of a
width that varies. The images are made batch by batch, class by class. Each measurement runs in a process of its own;
the peak is that of its anonymous memory, less what it held, network and a judged batch included, before the call. A
mixture is fitted in a few iterations: they take time and no memory. Exponents are slopes of the logarithms over the
upper half of a curve. Writes `benchmarks/results/detector_scale.json`, `docs/detector_scale.svg` and the table of
docs/size.md.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from em_memory import Peak
from em_scaling import exponent
from pages import RESULTS, ROOT, fill, save, table
from problems import facts
from torch import Tensor, nn

from gmm_torch import FailureDetector, GaussianMixture

RESNET50 = (512, 1024, 2048)
BASE: dict[str, Any] = {"n": 10_000, "classes": 1000, "widths": RESNET50, "views": 3}
CURVES: dict[str, list[dict[str, Any]]] = {
    "n": [{"n": n} for n in (10_000, 100_000, 1_000_000)],
    "classes": [{"classes": c} for c in (10, 100, 1000)],
    "width": [{"widths": (width,), "classes": 100} for width in (64, 256, 1024, 4096)],
    "one pass": [{"views": 1}],
}
NAMES = {"n": "images fitted", "classes": "classes", "width": "width of the one layer", "one pass": "one pass"}
PHASES = ("fit", "calibrate", "component_report")
BATCH = 250
CALIBRATED = 20  # one image to calibrate with for so many to fit to
MB = 1e6


class Wide(nn.Module):
    """Layers of these widths, each a map of 2 x 2 positions of its own, and a linear head."""

    def __init__(self, widths: tuple[int, ...], n_classes: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.layers = nn.ModuleList(nn.Sequential(nn.Conv2d(3, width, 1), nn.ReLU()) for width in widths)
        self.narrow = nn.Linear(widths[-1], 32)
        self.head = nn.Linear(32, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 8, 8) to (N, C)."""
        pooled = self.pool(x)
        maps = [layer(pooled) for layer in self.layers]
        return self.head(self.narrow(maps[-1].mean((2, 3)).tanh()))


def images(n: int, n_classes: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches (x, label) of noise about a picture for each class, sorted by class."""
    pictures = torch.rand(n_classes, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for start in range(0, n, BATCH):
        generator = torch.Generator().manual_seed(seed * 2**32 + start)
        label = torch.arange(start, min(n, start + BATCH)) * n_classes // n
        noise = torch.rand(len(label), 3, 8, 8, generator=generator)
        yield (pictures[label] + noise) / 2, label


def fit_briefly(mixture: GaussianMixture, points: Tensor) -> GaussianMixture:
    """A mixture of the usual size."""
    return mixture.fit(points, max_iter=3, reg_covar=1e-2, shrinkage="oas")


def child(n: int, classes: int, widths: tuple[int, ...], views: int) -> dict[str, Any]:
    """One measurement."""
    torch.manual_seed(0)
    network = Wide(widths, classes).eval()
    detector = FailureDetector(network, layers=[f"layers.{i}" for i in range(len(widths))], views=views)
    small = FailureDetector(network, n_components=2, layers=["layers.0"], views=views)  # libraries allocate once
    small.fit(images(600, classes, 3), fitter=fit_briefly).calibrate(images(200, classes, 4))
    detector.extractor(next(images(BATCH, classes, 5))[0])
    del small
    found: dict[str, Any] = {"peak": {}, "processor": {}}
    n_calibrated = max(1000, n // CALIBRATED)
    for phase in PHASES:
        ctypes.CDLL(None).malloc_trim(0)  # what the last phase freed must not hide what this one takes
        start = time.process_time()
        with Peak() as peak:
            if phase == "fit":
                detector.fit(images(n, classes, 1), fitter=fit_briefly)
            else:
                getattr(detector, phase)(images(n_calibrated, classes, 2))
        found["peak"][phase] = peak.largest - peak.before
        found["processor"][phase] = time.process_time() - start
    with tempfile.NamedTemporaryFile() as file:
        detector.save(file.name)
        found["file"] = os.path.getsize(file.name)
    return found | {"n_kept": detector.n_kept, "n_calibrated": n_calibrated}


def measure(size: dict[str, Any]) -> dict[str, Any]:
    """`child` in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--child", json.dumps(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    found: dict[str, Any] = json.loads(done.stdout)
    print(size, {phase: f"{value / MB:.0f} MB" for phase, value in found["peak"].items()}, flush=True)
    return found


def main() -> None:
    """Measure, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--largest", type=int, default=1_000_000, help="images of the largest fit")
    options = parser.parse_args()
    if options.child:
        warnings.simplefilter("ignore")
        size = json.loads(options.child)
        print(json.dumps(child(size["n"], size["classes"], tuple(size["widths"]), size["views"])))
        return
    rows: list[dict[str, Any]] = []
    done: dict[str, dict[str, Any]] = {}
    for axis, sizes in reversed(CURVES.items()):  # the longest last
        for changes in sizes:
            size = BASE | changes
            if size["n"] > options.largest:
                continue
            key = json.dumps(size)
            done[key] = done.get(key) or measure(size)
            rows.append({"axis": axis, "size": size, **done[key]})
            save(RESULTS / "detector_scale.json", {"facts": facts(torch.device("cpu")), "rows": rows})
    result = {"facts": facts(torch.device("cpu")), "rows": rows}
    draw(result)
    text = markdown(result)
    print(text)
    fill(ROOT / "docs" / "size.md", "detector_scale", text)


def place(row: dict[str, Any]) -> int:
    """Where a row stands on its axis."""
    size = row["size"]
    return int(size["widths"][0] if row["axis"] == "width" else size["n" if row["axis"] == "one pass" else row["axis"]])


def curve(result: dict[str, Any], axis: str, phase: str) -> tuple[list[int], list[float]]:
    """Sizes and peaks in MB."""
    rows = [row for row in result["rows"] if row["axis"] == axis]
    return [place(row) for row in rows], [row["peak"][phase] / MB for row in rows]


def markdown(result: dict[str, Any]) -> str:
    """The table of peaks, the exponents, and the picture."""
    lines = [
        [
            NAMES[row["axis"]],
            f"{row['size']['n']:,}",
            f"{row['size']['classes']:,}",
            " ".join(map(str, row["size"]["widths"])),
            f"{row['n_kept']:,}",
            *(f"{row['peak'][phase] / MB:,.0f}" for phase in PHASES),
            f"{row['file'] / MB:,.0f}",
        ]
        for axis in CURVES
        for row in result["rows"]
        if row["axis"] == axis
    ]
    head = ["curve", "images", "classes", "widths", "kept", *PHASES, "file"]
    slopes = []
    for axis in ("n", "classes", "width"):
        found = [(phase, *curve(result, axis, phase)) for phase in PHASES]
        words = ", ".join(f"{phase} {exponent(tuple(sizes), peaks):.2f}" for phase, sizes, peaks in found)
        slopes.append(f"{NAMES[axis]}: {words}")
    about = result["facts"]
    note = (
        f"Peak beyond network and batch, and file, in MB; one image to calibrate with for {CALIBRATED} to fit to, "
        f"1,000 at least. Exponents of the peak: {'; '.join(slopes)}. "
        f"{about['device']}, torch {about['versions']['torch']}."
    )
    return table(head, lines) + f"\n\n{note}\n\n![peak memory](detector_scale.svg)"


def draw(result: dict[str, Any]) -> None:
    """The curves, one panel an axis."""
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "gmm_torch"  # the same numbers give the same file
    axes = ("n", "classes", "width")
    figure, panels = plt.subplots(1, len(axes), figsize=(11, 3.2), sharey=True, layout="constrained")
    for panel, axis in zip(panels, axes, strict=True):
        for phase in PHASES:
            sizes, peaks = curve(result, axis, phase)
            panel.loglog(sizes, peaks, marker="o", label=f"{phase}: {exponent(tuple(sizes), peaks):.2f}")
        panel.axhline(2000, color="gray", linestyle=":")
        panel.set_xlabel(NAMES[axis])
        panel.legend(title="exponent", fontsize=8, title_fontsize=8)
    panels[0].set_ylabel("peak beyond network and batch, MB")
    figure.savefig(ROOT / "docs" / "detector_scale.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
