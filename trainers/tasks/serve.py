"""Judging images that come over HTTP."""

import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from gmm_torch.detection import FailureDetector
from trainers.run.model import load_model
from trainers.run.run import Run

PACKAGES = ("fastapi", "uvicorn", "multipart", "prometheus_client")
LOOPBACK = ("127.0.0.1", "::1", "localhost")

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
    drift: Mapping[str, Any],
    limits: Mapping[str, Any],
) -> None:
    """Serve the detector of `checkpoint` until the process is told to end; see `docs/serving.md`.

    Args:
        cfg, folder: as of every task.
        host, port: where to listen.
        class_names: see `load_model`.
        name, log, open_metrics: see `create_app`.
        drain: see `run_app`.
        drift: `window`, see `seconds_of`.
        limits: see `trainers.serve.limits.Limits`.
    """
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise ValueError(f"task=serve needs {', '.join(missing)}: pip install -e '.[serve]'")
    from trainers.serve import Limits, create_app
    from trainers.serve.drift import seconds_of
    from trainers.serve.keys import ENVIRONMENT, key_of_environment
    from trainers.serve.server import run_app

    bounds, window, key = Limits(**limits), seconds_of(drift["window"]), key_of_environment()
    model = load_model(Run(cfg, folder), "serve", class_names)

    def load() -> FailureDetector:
        again = load_model(Run(cfg, folder), "serve", class_names)
        if again.image_shape != model.image_shape or list(again.class_names) != list(model.class_names):
            raise ValueError("reload: the images' shape or the classes' names have changed: start the service anew")
        return again.detector

    app = create_app(
        model.detector, model.image_shape, model.class_names, bounds, resize=model.resize, name=name, key=key,
        open_metrics=open_metrics, log=log, window=window, load=load,
    )  # fmt: skip
    if key is None and host not in LOOPBACK:
        logger.warning("%s is not set: whoever reaches %s may ask", ENVIRONMENT, host)
    run_app(app, host, port, drain)
