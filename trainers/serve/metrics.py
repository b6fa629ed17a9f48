"""Prometheus metrics of the service: traffic, verdicts and drift."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from trainers.serve.predictor import Judged

if TYPE_CHECKING:
    from trainers.serve.served import Served

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)
P_VALUES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Metrics:
    """Counters of one service, in a registry of their own.

    Args:
        served: gives the detector in force, whose gauges are read at each scrape.
    """

    def __init__(self, served: Callable[[], "Served"]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = self._counter("requests", "Requests answered.", "path", "status")
        self.seconds = self._histogram("request_seconds", "From a request to its answer.", SECONDS, "path")
        self.waiting = self._gauge("waiting", "Images in work; a request whose body is not read yet counts as one.")
        self.request_images = self._histogram("request_images", "Images of a request for verdicts.", BATCH)
        self.batch = self._histogram("batch_images", "Images of a batch of the model.", BATCH)
        self.model_seconds = self._histogram("model_seconds", "From a batch to its verdicts.", SECONDS)
        self.verdicts = self._counter(
            "verdicts", "Verdicts; refused counts those whose outputs are not finite too.", "verdict"
        )
        self.not_finite = self._counter("not_finite", "Images refused because outputs were not finite.")
        self.p_values = self._histogram(
            "p_value", "P-values; uniform on images that the detector is calibrated for.", P_VALUES
        )
        self.alarms = self._counter("drift_alarms", "Windows that raised an alarm.")
        self.reloads = self._counter("reloads", "Reloads of the detector.", "result")
        self.detector = self._gauge("detector_info", "1 for the version of the detector in force.", "version")
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
            self._gauge(name, about).set_function(value)
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

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"gmm_torch_{name}", about, labels, registry=self.registry)

    def _gauge(self, name: str, about: str, *labels: str) -> Gauge:
        return Gauge(f"gmm_torch_{name}", about, labels, registry=self.registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"gmm_torch_{name}", about, labels, buckets=buckets, registry=self.registry)
