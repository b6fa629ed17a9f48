"""Fitting problems that the EM benchmarks share, and what they say about the machine."""

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """N points in D dimensions, K components of a covariance type."""

    n: int
    d: int
    k: int
    covariance_type: str

    @property
    def name(self) -> str:
        """As in a table."""
        return f"{self.n // 1000}k x {self.d}, {self.k}, {self.covariance_type}"

    @property
    def flop(self) -> float:
        """Floating-point operations that the matrix products of one iteration take at least.

        Both the quadratic forms of the E-step and the second moments of the M-step: full, a triangle for every point
        and component; diag and spherical, the features and their squares or norm; tied, one whitening and one scatter
        for all components, beside the linear terms.
        """
        n, d, k = self.n, self.d, self.k
        products = {
            "full": k * d * (d + 1),
            "diag": k * 4 * d,
            "spherical": k * 2 * (d + 1),
            "tied": 2 * k * d + d * (d + 1),
        }
        return 2.0 * n * products[self.covariance_type]

    def points(self, seed: int = 0) -> Tensor:
        """(N, D) float32: K overlapping clusters, each with a covariance of its own."""
        generator = torch.Generator().manual_seed(seed)
        centres = 1.5 * torch.randn(self.k, self.d, generator=generator)
        mixing = torch.eye(self.d) + 0.3 * torch.randn(self.k, self.d, self.d, generator=generator) / self.d**0.5
        label = torch.randint(self.k, (self.n,), generator=generator)
        x = torch.empty(self.n, self.d)
        for k in range(self.k):
            mine = label == k
            x[mine] = centres[k] + torch.randn(int(mine.sum()), self.d, generator=generator) @ mixing[k]
        return x

    def start(self, x: Tensor, seed: int = 1) -> dict[str, Tensor]:
        """Equal weights, K of the points as means, the data's own variances: float64."""
        generator = torch.Generator().manual_seed(seed)
        precision = 1 / x.double().var(0)
        precisions = {
            "full": torch.diag(precision).expand(self.k, -1, -1).clone(),
            "tied": torch.diag(precision),
            "diag": precision.expand(self.k, -1).clone(),
            "spherical": precision.mean().expand(self.k).clone(),
        }[self.covariance_type]
        rows = torch.randperm(len(x), generator=generator)[: self.k]
        weights = torch.full((self.k,), 1 / self.k, dtype=torch.float64)
        return {"weights_init": weights, "means_init": x[rows].double(), "precisions_init": precisions}


def clock(device: torch.device | None = None) -> float:
    """Seconds of the clock that a comparison is timed by.

    The processor's where the host computes in one thread, which other work on the machine hardly touches; else those on
    the wall.
    """
    host = device is None or device.type == "cpu"
    return time.process_time() if host and torch.get_num_threads() == 1 else time.perf_counter()


def clock_text(threads: int) -> str:
    """Which `clock` it was, for a caption."""
    return "1 thread, seconds of its processor" if threads == 1 else f"{threads} threads, seconds on the wall"


def seconds_of(function: Callable[[], Any], device: torch.device | None = None) -> float:
    """Seconds (`clock`) that a call takes, until the device has finished."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = clock(device)
    function()
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock(device) - begin


def gemm_rate(device: torch.device, dtype: torch.dtype = torch.float32, size: int = 2048, repeats: int = 5) -> float:
    """FLOP/s of a square matrix product: the best of several, after warm-up."""
    a = torch.randn(size, size, device=device, dtype=dtype)
    seconds_of(lambda: a @ a, device)
    return 2 * size**3 / min(seconds_of(lambda: a @ a, device) for _ in range(repeats))


def facts(device: torch.device, *packages: str) -> dict[str, Any]:
    """What a result has to say about where it comes from."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    versions = {}
    for package in ("gmm_torch", "torch", "numpy", *packages):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    threads = torch.get_num_threads()
    return {"device": name, "threads": threads, "python": platform.python_version(), "versions": versions}


def processor() -> str:
    """The processor's name and widest vector instructions."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return f"{names[0] if names else platform.processor()}, {torch.backends.cpu.get_cpu_capability()}"
