"""What the classifier gives for the images of a split."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from gmm_torch.batches import first_of
from gmm_torch.detection import FailureDetector, Outputs
from gmm_torch.detection.storage import fingerprint
from trainers.evaluation_module import OutputsModule
from trainers.tasks.run import Run

FEATURES = "features."


def split_outputs(run: Run, detector: FailureDetector, split: str) -> Outputs:
    """Logits and features of the split "mixture", "calibration" or "validation"; from the cache if they are there."""
    loaders = {
        "mixture": run.data.mixture_dataloader,
        "calibration": run.data.calibration_dataloader,
        "validation": run.data.val_dataloader,
    }
    loader = loaders[split]()
    if run.cache is None:
        return _extract(run, detector, loader, split)
    extractor = detector.extractor
    if not extractor.statistics:  # known after a forward pass, which there is none of where outputs are reused
        with torch.no_grad():
            extractor(first_of(next(iter(loader)))[:2].to(detector.device))
    parts = {
        "classifier": fingerprint(detector.classifier),
        "network": run.network,
        "data_fingerprint": run.data.fingerprint(),
        "split": split,
        "layers": extractor.layers,
        "pooling": extractor.pooling,
        "views": extractor.views,
        "labels": detector.score.needs_labels,
        "precision": str(run.cfg.trainer.get("precision")),
        "device": run.device.type,
        "batch_size": run.data.batch_size,  # sums over batches of another size differ in the last digits
    }
    path = run.cache.file(
        "outputs", parts, ".safetensors", lambda path: write_outputs(_extract(run, detector, loader, split), path)
    )
    return read_outputs(path, extractor.layers, run.device)


def _extract(run: Run, detector: FailureDetector, loader: DataLoader, split: str) -> Outputs:
    module = OutputsModule(detector.extractor, detector.score.needs_labels)
    return Outputs.cat(run.predict(module, loader, f"features of the {split} split"))


def write_outputs(outputs: Outputs, path: Path) -> None:
    """Write outputs to a safetensors file."""
    tensors = {"logits": outputs.logits} | {FEATURES + name: value for name, value in outputs.features.items()}
    tensors |= {name: value for name in ("labels", "keys") if (value := getattr(outputs, name)) is not None}
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(kept, path, metadata={"precision": outputs.precision, "statistics": json.dumps(outputs.statistics)})


def read_outputs(path: Path, layers: Sequence[str], device: torch.device) -> Outputs:
    """What `write_outputs` wrote, with the layers in this order, which a file does not keep."""
    with safe_open(path, framework="pt", device=str(device)) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata() or {}
    precision, statistics = metadata.get("precision", ""), json.loads(metadata.get("statistics", "null"))
    features = {name: tensors[FEATURES + name] for name in layers}
    return Outputs(tensors["logits"], features, tensors.get("labels"), tensors.get("keys"), precision, statistics)
