"""Judging images that come over HTTP."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from trainers.run.model import load_model
from trainers.run.run import Run

PACKAGES = ("fastapi", "uvicorn", "multipart", "prometheus_client")


def serve(
    cfg: DictConfig,
    folder: Path,
    *,
    host: str,
    port: int,
    class_names: Sequence[str] | str | None,
    limits: Mapping[str, Any],
) -> None:
    """Serve the detector of `checkpoint` until the process is told to end; see `docs/serving.md`.

    Args:
        cfg, folder: as of every task.
        host, port: where to listen.
        class_names: see `load_model`.
        limits: see `trainers.serve.limits.Limits`.
    """
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise ValueError(f"task=serve needs {', '.join(missing)}: pip install -e '.[serve]'")
    from trainers.serve import Limits, create_app
    from trainers.serve.server import run_app

    bounds = Limits(**limits)
    model = load_model(Run(cfg, folder), "serve", class_names)
    app = create_app(model.detector, model.image_shape, model.class_names, bounds, resize=model.resize)
    run_app(app, host, port)
