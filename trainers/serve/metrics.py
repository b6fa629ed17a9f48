"""Prometheus metrics of the service: traffic, verdicts and drift."""

import math
from collections.abc import Sequence

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from torch import Tensor

from gmm_torch.detection import FailureDetector
from gmm_torch.metrics.martingale import ExchangeabilityMartingale
from trainers.serve.answers import Answer

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)
P_VALUES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
STRETCH = 10_000  # images after which the bet against the calibration set begins anew: its memory has to end
THRESHOLD = 100.0  # capital of the alarm


class Metrics:
    """Counters of one service, in a registry of their own.

    Drift is watched by the exchangeability martingale of `gmm_torch.metrics.martingale`, in stretches of
    `STRETCH` images: it ranks each score among the calibration scores and those of its stretch, which takes memory.
    On images like the calibration images a stretch raises an alarm with probability at most 1 / `THRESHOLD`.
    """

    def __init__(self, detector: FailureDetector) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter("gmm_torch_requests", "Requests answered.", ["path", "status"], registry=self.registry)
        self.seconds = Histogram(
            "gmm_torch_request_seconds",
            "From a request to its answer.",
            ["path"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.waiting = Gauge("gmm_torch_waiting", "Requests for a verdict in work.", registry=self.registry)
        self.batch = Histogram("gmm_torch_batch_images", "Images of a batch.", buckets=BATCH, registry=self.registry)
        self.model_seconds = Histogram(
            "gmm_torch_model_seconds", "From a batch to its verdicts.", buckets=SECONDS, registry=self.registry
        )
        self.verdicts = Counter(
            "gmm_torch_verdicts",
            "Verdicts; refused counts those whose outputs are not finite too.",
            ["verdict"],
            registry=self.registry,
        )
        self.not_finite = Counter(
            "gmm_torch_not_finite", "Images refused because outputs were not finite.", registry=self.registry
        )
        self.p_values = Histogram(
            "gmm_torch_p_value",
            "P-values; uniform on images like the calibration images.",
            buckets=P_VALUES,
            registry=self.registry,
        )
        self.log10_capital = Gauge(
            "gmm_torch_drift_log10_capital",
            "Evidence against images like the calibration images, in the current stretch.",
            registry=self.registry,
        )
        self.alarms = Counter("gmm_torch_drift_alarms", "Stretches that raised an alarm.", registry=self.registry)
        Gauge("gmm_torch_alpha", "Refusal rate on images like the calibration images.", registry=self.registry).set(
            detector.alpha
        )
        for verdict in ("accepted", "refused"):  # from the first scrape on, so that rates have a beginning
            self.verdicts.labels(verdict)
        self._calibration = detector.calibration.scores.detach().double().cpu()
        self._n_stretches = 0
        self._martingale = self._begin()

    def _begin(self) -> ExchangeabilityMartingale:
        self._n_stretches += 1
        return ExchangeabilityMartingale(self._calibration, THRESHOLD, seed=self._n_stretches)

    @torch.inference_mode(False)
    def watch(self, answers: Sequence[Answer], scores: Tensor) -> None:
        """Count a batch's verdicts and bet on its scores (N,); one thread calls it, in the order of the stream."""
        self.batch.observe(len(answers))
        for answer in answers:
            self.verdicts.labels(answer.verdict).inc()
            if answer.p_value is None:
                self.not_finite.inc()
            else:
                self.p_values.observe(answer.p_value)
        known = self._martingale.alarm
        self._martingale.update(scores.clone())
        if self._martingale.alarm and not known:
            self.alarms.inc()
        self.log10_capital.set(float(self._martingale.compute()) / math.log(10))
        if int(self._martingale.n_seen) >= STRETCH:
            self._martingale = self._begin()

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
