"""What a verdict costs beside the classifier's own answer.

    python benchmarks/scoring_overhead.py [--threads 1] [--device cuda]

A ResNet-20 for 32 x 32 images answers batches of 256, a ResNet-50 of timm for 224 x 224 images and 1,000 classes
batches of 8 and single images; `FailureDetector(classifier)` with all its defaults judges the same batches, in one pass
(`views=1`) and with its three views. What is timed takes turns within each repeat; a ratio is that of one repeat to the
classifier in the same repeat, and the median over the repeats counts, unless they disagree (`timings.py`). With one
thread the clock is the processor time of the process, which other work on the machine hardly touches; otherwise it is
the wall clock. The weights are random: they bear on no timing.

Writes `benchmarks/results/scoring_overhead.json` and exits with 1 where a goal is missed.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from pages import save
from timings import median_seconds
from torch import Tensor, nn

from gmm_torch import FailureDetector, GaussianMixture
from gmm_torch.detector import Features
from gmm_torch.features.normalized import Normalize
from trainers.classifiers.resnet_cifar import ResNetCifar

RESULTS = Path(__file__).parent / "results" / "scoring_overhead.json"
GOAL = 1.10  # times the number of views
FILE_GOAL = 50e6
OF_ONE_IMAGE = {1: 1.5, 3: 3.6}  # the goal by number of views
BATCH = 256
N_FIT, N_CALIBRATION = 1024, 512
WIDE = 6000  # made-up outputs that the mixtures of a ResNet-50 are fitted to: its images would take hours


def smooth_images(n: int, seed: int) -> Tensor:
    """(n, 3, 32, 32) in [0, 1]: noise of several scales, so that features vary between images."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(n, 3, 32, 32)
    for side in (2, 4, 8, 32):
        noise = torch.rand(n, 3, side, side, generator=generator)
        total += nn.functional.interpolate(noise, size=32, mode="bilinear", align_corners=False)
    return total / 4


def fit_briefly(mixture: GaussianMixture, points: Tensor) -> GaussianMixture:
    """A mixture of the usual sizes; how good it is bears on no timing."""
    return mixture.fit(points, max_iter=2, reg_covar=1e-2, init_params="random_from_data")


def take_turns(
    jobs: dict[str, Callable[[], object]], repeats: int, clock: Callable[[], float], synchronise: Callable[[], None]
) -> dict[str, list[float]]:
    """Seconds of each job in each repeat; the jobs take turns."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for repeat in range(-2, repeats):  # two rounds to warm up
        for name, job in jobs.items():
            synchronise()
            start = clock()
            job()
            synchronise()
            if repeat >= 0:
                times[name].append(clock() - start)
    return times


def of_small_images(classifier: nn.Module, **options: Any) -> FailureDetector:
    """A detector of 32 x 32 images."""
    fitting, calibration = smooth_images(N_FIT, 1).split(BATCH), smooth_images(N_CALIBRATION, 2).split(BATCH)
    return FailureDetector(classifier, **options).fit(fitting, fitter=fit_briefly).calibrate(calibration)


def of_made_up_outputs(classifier: nn.Module, **options: Any) -> FailureDetector:
    """A detector of 224 x 224 images, of the sizes that enough of them would have given it."""
    detector = FailureDetector(classifier, **options)
    with torch.no_grad():
        seen = detector.extractor(torch.rand(2, 3, 224, 224).to(detector.device))
    generator = torch.Generator().manual_seed(0)

    def like(value: Tensor, n: int) -> Tensor:
        return torch.randn(n, *value.shape[1:], generator=generator).square().to(value)

    def made_up(n: int) -> Features:
        return Features(like(seen.logits, n), {name: like(value, n) for name, value in seen.layers.items()})

    return detector.fit(made_up(WIDE), fitter=fit_briefly).calibrate(made_up(N_CALIBRATION))


def measure(
    classifier: nn.Module,
    detectors: dict[str, FailureDetector],
    x: Tensor,
    repeats: int,
    goals: dict[int, float],
) -> dict[str, Any]:
    """Timings and ratios of a batch x, as in the JSON file."""
    device = x.device
    jobs: dict[str, Callable[[], object]] = {"classifier": lambda: classifier(x)}
    for name, detector in detectors.items():
        jobs[name] = lambda detector=detector: detector(x)
        jobs[f"{name}: features"] = lambda detector=detector: detector.extractor(x)
        outputs = detector.extractor(x)
        jobs[f"{name}: judging"] = lambda detector=detector, outputs=outputs: detector(outputs)
    synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    by_processor = device.type == "cpu" and torch.get_num_threads() == 1
    times = take_turns(jobs, repeats, time.process_time if by_processor else time.perf_counter, synchronise)
    ratios = {
        name: [mine / base for mine, base in zip(values, times["classifier"], strict=True)]
        for name, values in times.items()
    }
    rows = {}
    for name, detector in detectors.items():
        n_views = len(detector.extractor.views)
        rows[name] = {
            "views": n_views,
            "ratio": median_seconds(f"{name}, times the classifier", ratios[name]),
            "smallest": min(ratios[name]),
            "largest": max(ratios[name]),
            "of which features": statistics.median(ratios[f"{name}: features"]),
            "of which judging": statistics.median(ratios[f"{name}: judging"]),
            "goal": round(goals[n_views], 4),
        }
    return {
        "batch": len(x),
        "repeats": repeats,
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "detectors": rows,
        "clock": "processor time" if by_processor else "wall clock",
    }


def everything(device: torch.device, repeats: int) -> dict[str, Any]:
    """All that is measured; the ResNet-20 as itself, the ResNet-50 by batch."""
    torch.manual_seed(0)
    goals = {n_views: GOAL * n_views for n_views in OF_ONE_IMAGE}
    small = nn.Sequential(Normalize([0.5] * 3, [0.25] * 3), ResNetCifar(20, 10)).to(device).eval()
    detectors = {"one pass": of_small_images(small, views=1), "default": of_small_images(small)}
    found = measure(small, detectors, smooth_images(BATCH, 3).to(device), repeats, goals)
    large = timm.create_model("resnet50").to(device).eval()
    detectors = {"one pass": of_made_up_outputs(large, views=1), "default": of_made_up_outputs(large)}
    x = torch.rand(8, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(device)
    of_large = {
        "8": measure(large, detectors, x, repeats, goals),
        "1": measure(large, detectors, x[:1], repeats, OF_ONE_IMAGE),
    }
    return {
        "classifier": "resnet20",
        **found,
        "resnet50": of_large,
        "file_bytes": {name: file_size(detector) for name, detector in detectors.items()},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__},
    }


def file_size(detector: FailureDetector) -> int:
    """Bytes of its file."""
    with tempfile.NamedTemporaryFile() as file:
        detector.save(file.name)
        return Path(file.name).stat().st_size


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=11)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.inference_mode():
        found = everything(torch.device(options.device), options.repeats)
    print(
        "| network | batch | detector | views | times the classifier | smallest | largest | features | judging | goal |"
    )
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    missed = False
    keys = ("ratio", "smallest", "largest", "of which features", "of which judging", "goal")
    for network, part in [("resnet20", found), *(("resnet50", part) for part in found["resnet50"].values())]:
        for name, row in part["detectors"].items():
            cells = " | ".join(f"{row[key]:.3f}" for key in keys)
            print(f"| {network} | {part['batch']} | {name} | {row['views']} | {cells} |")
            missed |= row["ratio"] > row["goal"]
    for name, size in found["file_bytes"].items():
        print(f"resnet50, {name}: a file of {size / 1e6:.1f} MB")
        missed |= size > FILE_GOAL
    RESULTS.parent.mkdir(exist_ok=True)
    save(RESULTS, found)
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
