"""Logits and features of a split, streamed, sampled or cached."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from gmm_torch.detector import FailureDetector, Features
from gmm_torch.detector.statistics import Statistics
from gmm_torch.detector.weights import fingerprint
from gmm_torch.features.features import Chunks, FiniteCheck
from gmm_torch.features.inputs import InputFormat
from gmm_torch.features.sample import MAX_BYTES, MAX_INPUTS, Drawn, Sample
from gmm_torch.mixture.batches import first_of
from trainers.classifiers.build import build_classifier
from trainers.modules.evaluation_module import OutputsModule
from trainers.run.run import Run

FEATURES = "features."
OPTIONAL = ("labels", "keys", "position")
EXTREMES = "format.extremes"
CODE = (build_classifier, OutputsModule, Sample)  # that makes them


def split_outputs(run: Run, detector: FailureDetector, split: str, take: Callable[[Features], object]) -> None:
    """Hand the logits and features of a split to `take`, batch by batch; from the cache if they fit there at once.

    Raises:
        ValueError: features that are not finite, at the end.
    """
    loader = _loader(run, split)
    if run.cache is None or _bytes(run, detector, loader) > MAX_BYTES:
        _extract(run, detector, loader, split, take)
        return

    def make(path: Path) -> None:
        parts: list[Features] = []
        _extract(run, detector, loader, split, parts.append)
        outputs = Features.cat(parts)
        write_outputs(Drawn(outputs, len(outputs.logits)), path)

    path = run.cache.file("outputs", _depends_on(run, detector, split), CODE, ".safetensors", make)
    take(read_outputs(path, detector.extractor.layers, run.device).outputs)


def split_sample(run: Run, detector: FailureDetector, split: str) -> Drawn:
    """A random sample of bounded size of the logits and features of a split; from the cache if it is there."""
    loader = _loader(run, split)

    def draw() -> Drawn:
        sample = Sample()
        _extract(run, detector, loader, split, sample.add)
        return sample.draw()

    if run.cache is None:
        return draw()
    _bytes(run, detector, loader)
    depends_on = {**_depends_on(run, detector, split), "sample": [MAX_BYTES, MAX_INPUTS]}
    path = run.cache.file("outputs", depends_on, CODE, ".safetensors", lambda path: write_outputs(draw(), path))
    return read_outputs(path, detector.extractor.layers, run.device)


def split_statistics(run: Run, detector: FailureDetector, split: str) -> Statistics:
    """Statistics of the inputs of a split, with their labels."""
    parts = Chunks(detector.statistics)
    split_outputs(run, detector, split, parts.add)
    found = Statistics.cat(parts.end())
    labels = run.data.training_images.targets[run.data.indices[split]]
    return found._replace(labels=labels.to(found.prediction.device))


def _loader(run: Run, split: str) -> DataLoader[Any]:
    loaders = {
        "mixture": run.data.mixture_dataloader,
        "calibration": run.data.calibration_dataloader,
        "validation": run.data.val_dataloader,
    }
    return loaders[split]()


def _bytes(run: Run, detector: FailureDetector, loader: DataLoader[Any]) -> int:
    """What the outputs of a loader's images take; the layers are found for it, if they were not."""
    with torch.no_grad():
        outputs = detector.extractor(first_of(next(iter(loader)))[:2].to(detector.device))
    return outputs.row_bytes * len(loader.dataset)  # type: ignore[arg-type]


def _depends_on(run: Run, detector: FailureDetector, split: str) -> Mapping[str, Any]:
    """What a file in the cache depends on."""
    extractor = detector.extractor
    return {
        "classifier": fingerprint(detector.classifier),
        "network": run.network,
        "data_fingerprint": run.data.fingerprint(),
        "split": split,
        "layers": extractor.read(),
        "pooling": extractor.pooling,
        "views": extractor.views,
        "labels": detector.score.ever_needs_labels,
        "precision": str(run.cfg.trainer.get("precision")),
        "device": run.device.type,
        "batch_size": run.data.batch_size,  # sums over batches of another size differ in the last digits
    }


def _extract(
    run: Run, detector: FailureDetector, loader: DataLoader[Any], split: str, take: Callable[[Features], object]
) -> None:
    finite = FiniteCheck()

    def checked(outputs: Features) -> None:
        finite.add(outputs)
        take(outputs)

    module = OutputsModule(detector.extractor, checked, labels=detector.score.ever_needs_labels)
    run.predict(module, loader, f"features of the {split} split")
    detector.to(run.device)  # a Trainer leaves what it ran on the CPU
    finite.check()


def write_outputs(drawn: Drawn, path: Path) -> None:
    """Write outputs to a safetensors file."""
    outputs = drawn.outputs
    tensors = {"logits": outputs.logits} | {FEATURES + name: value for name, value in outputs.layers.items()}
    tensors |= {name: value for name in OPTIONAL if (value := getattr(outputs, name)) is not None}
    size, numbers, extremes = outputs.format
    tensors |= {} if extremes is None else {EXTREMES: extremes}
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    words = {"precision": outputs.precision, "size": size, "numbers": numbers, "n_given": str(drawn.n_given)}
    save_file(kept, path, metadata=words)


def read_outputs(path: Path, layers: Sequence[str], device: torch.device) -> Drawn:
    """What `write_outputs` wrote, with the layers in this order, which a file does not keep."""
    with safe_open(path, framework="pt", device=str(device)) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    features = {name: tensors[FEATURES + name] for name in layers}
    optional = {name: tensors.get(name) for name in OPTIONAL}
    images = InputFormat(metadata["size"], metadata["numbers"], tensors.get(EXTREMES))
    outputs = Features(tensors["logits"], features, precision=metadata["precision"], format=images, **optional)
    return Drawn(outputs, int(metadata["n_given"]))
