"""Training a classifier once for all jobs that need it."""

import shutil
from pathlib import Path

from omegaconf import OmegaConf

from gmm_torch.files import atomic_path
from trainers.cache.keys import without
from trainers.classifiers.checkpoint import load_weights, read_weights
from trainers.run.folder import WEIGHTS, begin_training
from trainers.run.run import Run
from trainers.tasks.train import train_classifier

# What comes after training. All else, what is added later included, counts as what the weights depend on.
AFTER_TRAINING = (
    *("hydra", "cache", "title", "task", "input", "detector", "missing_data", "skip_unreadable", "benchmark"),
    *("output", "page", "drift", "adaptive", "corruption", "corruption_limit"),
    *("ood", "ood_limit", "attack", "attack_limit", "mixture", "score", "calibration", "alpha", "layers", "views"),
)


def train_once(run: Run) -> None:
    """Train the classifier, or take the weights of the same training from the cache; write `classifier.safetensors`.

    The same training is the same images in the same roles and the same config of all that has a part in it.
    """
    if run.cache is None:
        train_classifier(run)
        return

    def train(path: Path) -> None:
        train_classifier(run)
        shutil.copyfile(run.folder / WEIGHTS, path)

    config = OmegaConf.to_container(run.cfg, resolve=True)
    parts = without(config, *AFTER_TRAINING) | {"data_fingerprint": run.data.fingerprint()}  # type: ignore[arg-type]
    begin_training(run.folder, resumed=run.cfg.resume is not None)
    kept = run.cache.file("classifiers", parts, ".safetensors", train)
    # Always from the file: what lies in this folder, or was trained in this process, says nothing of these parts.
    load_weights(run.classifier, read_weights(kept), kept)
    with atomic_path(run.folder / WEIGHTS) as temporary:  # a file that lay there may be one with another job's
        shutil.copyfile(kept, temporary)
