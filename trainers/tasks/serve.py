"""Judging images that come over HTTP."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from gmm_torch.conformal.drift import DriftMonitor
from gmm_torch.detector import FailureDetector
from gmm_torch.lightning.drift import DriftCallback
from trainers.evaluation.drift import drift_callback
from trainers.run.model import Model, load_model
from trainers.run.requirements import require_packages
from trainers.run.run import Run

PACKAGES = ("fastapi", "uvicorn", "multipart", "prometheus_client")
LOOPBACK = ("127.0.0.1", "::1", "localhost")
N_KEPT = 48  # windows of drift that are remembered

logger = logging.getLogger(__name__)


def serve(
    cfg: DictConfig,
    folder: Path,
    *,
    host: str,
    port: int,
    class_names: Sequence[str] | str | None,
    name: str,
    log: str | None,
    open_metrics: bool,
    drain: float,
    limits: Mapping[str, Any],
) -> None:
    """Serve the detector of `checkpoint` until the process is told to end; see `docs/serving.md`.

    Args:
        cfg, folder: as of every task.
        class_names: see `load_model`.
        name, log, open_metrics: see `create_app`.
        host, port, drain: see `run_app`.
        limits: see `trainers.serve.limits.Limits`.
    """
    require_packages(PACKAGES, "task=serve", "serve")
    from trainers.serve import Limits, create_app
    from trainers.serve.keys import ENVIRONMENT, key_of_environment
    from trainers.serve.server import run_app

    bounds, drift, key = Limits(**limits), _watch(drift_callback(cfg)), key_of_environment()
    model = load_model(Run(cfg, folder), "serve", class_names)

    def load() -> FailureDetector:
        again = load_model(Run(cfg, folder), "serve", class_names)
        if _takes(again) != _takes(model):
            raise ValueError(
                "reload: expected images of the same shape, resized in the same way, and classes of the same names; "
                "got others: start the service anew"
            )
        return again.detector

    app = create_app(
        model.detector, model.image_shape, model.class_names, bounds, resize=model.resize, name=name, key=key,
        open_metrics=open_metrics, log=log, drift=drift, load=load,
    )  # fmt: skip
    if key is None and host not in LOOPBACK:
        logger.warning("%s is not set: whoever reaches %s may ask", ENVIRONMENT, host)
    run_app(app, host, port, drain)


def _takes(model: Model) -> tuple[object, ...]:
    """What the service is told once, for whatever detectors come after."""
    return tuple(model.image_shape), model.resize, list(model.class_names)


def _watch(callback: DriftCallback | None) -> Callable[[Tensor], DriftMonitor]:
    """Function from calibration scores to the monitor that `drift=` selects.

    Raises:
        ValueError: the memory of that monitor grows, or it would stop the service.
    """
    if callback is None or callback.monitor.against != "reference" or callback.stop:
        raise ValueError(
            "drift: expected reference or windows, and drift.stop=false, for task=serve, which watches in bounded "
            "memory and goes on; got another: leave drift= out for the whole stream, or set drift=windows"
        )
    return partial(callback.new_monitor, keep=N_KEPT)
