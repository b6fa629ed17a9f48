"""Prometheus metrics of the service: traffic, verdicts and drift."""

from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from trainers.serve.predictor import Judged
from trainers.serve.served import Served

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)
P_VALUES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Metrics:
    """Counters of one service, in a registry of their own, and gauges of the detector in force, read at each scrape."""

    def __init__(self, served: Callable[[], Served]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        ours: dict[str, Any] = {"namespace": "gmm_torch", "registry": self.registry}
        self.requests = Counter("requests", "Requests answered.", ("path", "status"), **ours)
        self.seconds = Histogram("request_seconds", "From a request to its answer.", ("path",), buckets=SECONDS, **ours)
        self.waiting = Gauge("waiting", "Images in work; a request whose body is not read yet counts as one.", **ours)
        self.request_images = Histogram("request_images", "Images of a request for verdicts.", buckets=BATCH, **ours)
        self.batch = Histogram("batch_images", "Images of a batch of the model.", buckets=BATCH, **ours)
        self.model_seconds = Histogram("model_seconds", "From a batch to its verdicts.", buckets=SECONDS, **ours)
        self.verdicts = Counter(
            "verdicts", "Verdicts; refused counts those whose outputs are not finite too.", ("verdict",), **ours
        )
        self.not_finite = Counter("not_finite", "Images refused because outputs were not finite.", **ours)
        self.p_values = Histogram(
            "p_value", "P-values; uniform on images that the detector is calibrated for.", buckets=P_VALUES, **ours
        )
        self.alarms = Counter("drift_alarms", "Windows that raised an alarm.", **ours)
        self.reloads = Counter("reloads", "Reloads of the detector.", ("result",), **ours)
        self.detector = Gauge("detector_info", "1 for the version of the detector in force.", ("version",), **ours)
        for name, about, value in (
            ("alpha", "Refusal rate on images that the detector is calibrated for.", lambda: served().detector.alpha),
            (
                "drift_log10_capital",
                "Evidence against images like the calibration images, in the current window.",
                lambda: served().drift.log10_capital,
            ),
            ("window_images", "Images judged in the current window.", lambda: served().drift.current.images),
            ("window_refused", "Images refused in the current window.", lambda: served().drift.current.refused),
        ):
            Gauge(name, about, **ours).set_function(value)
        for verdict in ("accepted", "refused"):  # from the first scrape on, so that rates have a beginning
            self.verdicts.labels(verdict)
        for result in ("done", "failed"):
            self.reloads.labels(result)

    def watch(self, judged: Sequence[Judged]) -> None:
        """Count the verdicts of a batch."""
        self.batch.observe(len(judged))
        for record in (each.record for each in judged):
            self.verdicts.labels("accepted" if record.accept else "refused").inc()
            if record.finite:
                self.p_values.observe(record.p_value)
            else:
                self.not_finite.inc()

    def in_force(self, version: str) -> None:
        """Tell which detector judges from now on."""
        self.detector.clear()
        self.detector.labels(version).set(1)

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
