"""Judging images that come over HTTP."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gmm_torch.detection import FailureDetector
from trainers.classifiers.build import build_classifier
from trainers.tasks.need import need
from trainers.tasks.run import Run

PACKAGES = ("fastapi", "uvicorn", "multipart", "prometheus_client")


def serve(
    cfg: DictConfig,
    folder: Path,
    *,
    host: str,
    port: int,
    class_names: list[str] | str | None,
    limits: Mapping[str, Any],
) -> None:
    """Serve the detector of `detector` until the process is told to end; see `docs/serving.md`.

    Args:
        cfg, folder: as of every task.
        host, port: where to listen.
        class_names: a list, or a text file with one a line; None for those of the data.
        limits: see `trainers.serve.limits.Limits`.
    """
    need(cfg.classifier.checkpoint, "classifier.checkpoint", "task=serve needs the detector's classifier")
    need(cfg.detector, "detector", "task=serve needs a fitted detector")
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise ValueError(f"task=serve needs {', '.join(missing)}: pip install 'gmm_torch[serve]'")
    from trainers.serve import Limits, create_app
    from trainers.serve.server import run_app

    bounds = Limits(**limits)
    run = Run(cfg, folder)
    if class_names is None:
        names, image_shape, classifier = run.data.class_names, run.data.image_shape, run.classifier
    else:  # the data need not be on this machine
        names = Path(class_names).read_text().splitlines() if isinstance(class_names, str) else list(class_names)
        image_shape = cfg.data.image_shape
        classifier = build_classifier(cfg.classifier, len(names), image_shape)
    detector = FailureDetector.load(cfg.detector, classifier.to(run.device))
    crop_share = float(OmegaConf.select(cfg, "data.source.crop_share", default=1.0))
    run_app(create_app(detector, image_shape, names, bounds, crop_share=crop_share), host, port)
