"""What a mixture that follows the training costs beside a training step.

    python benchmarks/training_overhead.py [--classifier resnet20] [--threads 2] [--device cuda] [--seconds 240]

Training steps (forward, cross entropy, backward, SGD with momentum) of one network on batches of 128, with and without
`FeatureHook` and `OnlineMixture.update` (ten full components, the defaults), in turn: a pair takes one of each, the
order within a pair alternates, and a ratio is that of a pair. The median over the pairs counts. Hooks come and go
outside the clock. The images are noise, which bears on no timing.

A renewal, once an epoch, is timed beside it, on as many recent points as the memory holds, and stated as a share of an
epoch of 50,000 images.

Writes `benchmarks/results/training_overhead.json` and the table of `docs/training.md`; exits with 1 where the goal is
missed.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from pages import save
from torch import nn
from training_page import write_page

from gmm_torch.features.hook import FeatureHook
from gmm_torch.mixture.online import OnlineMixture
from trainers.classifiers.resnet_cifar import ResNetCifar

RESULTS = Path(__file__).parent / "results" / "training_overhead.json"
GOAL = 1.05
BATCH, EPOCH = 128, 50_000
CLASSIFIERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet20": (lambda: ResNetCifar(20, 10), 32),
    "resnet18": (torchvision.models.resnet18, 224),
    "resnet50": (torchvision.models.resnet50, 224),
}


class Training:
    """A network in training, with a mixture that may look on."""

    def __init__(self, classifier: str, device: torch.device, every: int) -> None:
        torch.manual_seed(0)
        make, side = CLASSIFIERS[classifier]
        self.network = make().to(device).train()
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.01, momentum=0.9)
        self.images = torch.rand(BATCH, 3, side, side, device=device)
        self.labels = torch.randint(10, (BATCH,), device=device)
        self.online = OnlineMixture(every=every)
        self.synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def step(self, online: bool, clock: Callable[[], float]) -> float:
        """Seconds of one training step."""
        hook = FeatureHook(self.network) if online else None
        if hook is not None and hook.layer is None:  # the layer is looked for once in a training
            hook._find(self.network, (self.images,), {})
        self.synchronise()
        start = clock()
        self.optimizer.zero_grad()
        F.cross_entropy(self.network(self.images), self.labels).backward()
        self.optimizer.step()
        if hook is not None:
            self.online.update(hook.take().features)
        self.synchronise()
        seconds = clock() - start
        if hook is not None:
            hook.remove()
        return seconds

    def renewal(self, clock: Callable[[], float]) -> tuple[float, int]:
        """Seconds of a renewal with a full memory, and the number of its points."""
        recent = self.online._recent
        assert recent is not None
        # Other points than the few that were seen: as many distinct ones as in a training.
        self.online.update(recent.mean(0) + recent.std(0) * torch.randn_like(recent))
        self.synchronise()
        start = clock()
        self.online.refit()
        self.synchronise()
        return clock() - start, len(recent)


def measure(classifier: str, device: torch.device, seconds: float, every: int) -> dict[str, object]:
    """Timings, as in the JSON file."""
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    training = Training(classifier, device, every)
    for online in (True, True, False):  # to warm up, and to have points to start from
        training.step(online, clock)
    training.online.refit()
    training.step(True, clock)
    pairs: list[tuple[float, float]] = []  # without, with
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(pairs) < 5:
        order = (False, True) if len(pairs) % 2 else (True, False)
        found = {online: training.step(online, clock) for online in order}
        pairs.append((found[False], found[True]))
    renewal, n_points = training.renewal(clock)
    without, with_it = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
    ratios = sorted(b / a for a, b in pairs)
    return {
        "classifier": classifier,
        "batch": BATCH,
        "every": every,
        "pairs": len(pairs),
        "seconds_without": without,
        "seconds_with": with_it,
        "seconds_added": statistics.median(b - a for a, b in pairs),
        "ratio": statistics.median(ratios),
        "quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
        "goal": GOAL,
        "renewal_seconds": renewal,
        "renewal_points": n_points,
        "renewal_share_of_epoch": renewal / (without * EPOCH / BATCH),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "clock": "processor time" if clock is time.process_time else "wall clock",
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classifier", choices=list(CLASSIFIERS), default="resnet20")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--every", type=int, default=1, help="steps of the classifier to one of EM")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = measure(options.classifier, torch.device(options.device), options.seconds, options.every)
    print(json.dumps(found, indent=1))
    save(RESULTS, found)
    write_page()
    return int(found["ratio"] > GOAL)  # type: ignore[operator]


if __name__ == "__main__":
    raise SystemExit(main())
