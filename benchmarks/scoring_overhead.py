"""What a verdict costs beside the classifier's own answer.

    python benchmarks/scoring_overhead.py [--threads 1] [--device cuda]

A ResNet-20 for 32 x 32 images answers batches of 256; `FailureDetector(classifier)` with all its defaults judges the
same batches, in one pass (`views=1`) and with its three views. What is timed takes turns within each repeat; a ratio is
that of one repeat to the classifier in the same repeat, and the median over the repeats counts, unless they disagree
(`timings.py`). With one thread the
clock is the processor time of the process, which other work on the machine hardly touches; otherwise it is the wall
clock. The weights are random: they bear on no timing.

Writes `benchmarks/results/scoring_overhead.json` and exits with 1 where a goal is missed.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from pages import save
from timings import median_seconds
from torch import Tensor, nn

from gmm_torch import FailureDetector, GaussianMixture
from trainers.classifiers.normalize import Normalize
from trainers.classifiers.resnet_cifar import ResNetCifar

RESULTS = Path(__file__).parent / "results" / "scoring_overhead.json"
GOAL = 1.10  # times the number of views
BATCH = 256
N_FIT, N_CALIBRATION = 1024, 512


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


def measure(device: torch.device, repeats: int) -> dict[str, object]:
    """Timings and ratios, as in the JSON file."""
    torch.manual_seed(0)
    classifier = nn.Sequential(Normalize([0.5] * 3, [0.25] * 3), ResNetCifar(20, 10)).to(device).eval()
    fitting, calibration = smooth_images(N_FIT, 1).split(BATCH), smooth_images(N_CALIBRATION, 2).split(BATCH)
    detectors = {
        "one pass": FailureDetector(classifier, views=1).fit(fitting, fit_briefly).calibrate(calibration),
        "default": FailureDetector(classifier).fit(fitting, fit_briefly).calibrate(calibration),
    }
    x = smooth_images(BATCH, 3).to(device)
    jobs: dict[str, Callable[[], object]] = {"classifier": lambda: classifier(x)}
    for name, detector in detectors.items():
        jobs[name] = lambda detector=detector: detector(x)
        jobs[f"{name}: features"] = lambda detector=detector: detector.extractor(x)
        outputs = detector.extractor(x)
        jobs[f"{name}: judging"] = lambda detector=detector, outputs=outputs: detector.judge(outputs)
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
            "goal": round(GOAL * n_views, 4),
        }
    return {
        "classifier": "resnet20",
        "batch": BATCH,
        "repeats": repeats,
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "detectors": rows,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "clock": "processor time" if by_processor else "wall clock",
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=11)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.inference_mode():
        found = measure(torch.device(options.device), options.repeats)
    print("| detector | views | times the classifier | smallest | largest | features alone | judging alone | goal |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    missed = False
    for name, row in found["detectors"].items():  # type: ignore[attr-defined]
        cells = [row[key] for key in ("ratio", "smallest", "largest", "of which features", "of which judging", "goal")]
        print(f"| {name} | {row['views']} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
        missed |= row["ratio"] > row["goal"]
    RESULTS.parent.mkdir(exist_ok=True)
    save(RESULTS, found)
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
