"""What unlabelled images are worth: accuracy, and detection of the three sources of failure.

    python benchmarks/semi_supervised.py --data digits fashion_mnist --mnist FOLDER_OF_IDX_FILES [--data-root FOLDER]

Each method trains the same small network with the same labelled images, for as many steps of as many labelled images;
the best of its checkpoints on the validation split is kept. First all classifiers are trained, then a detector for each
is fitted to the features of all training images, labelled or not, and judged, by the application's own tasks. What is
set below was chosen by validation accuracy with the fewest labels and seed 0.

Every result is saved as soon as it is there, and not measured again: a run that was stopped goes on where it was.
Writes `benchmarks/results/semi_supervised.json` and the tables of `docs/semi_supervised.md`.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pages
import torch
from configuration import composed
from torch import nn
from torch.utils.data import DataLoader

from trainers.cache.run_folder import WEIGHTS
from trainers.evaluation.metrics_file import PACKAGES, device_name
from trainers.run.job import quieten, run_task
from trainers.run.run import Run
from trainers.run.training import train_classifier

RESULT = pages.RESULTS / "semi_supervised.json"
PAGE = pages.ROOT / "docs" / "semi_supervised.md"
STAGES = ("train", "judge")
NAMES = {"supervised": "labelled images alone", "mean_teacher": "Mean Teacher", "vat": "VAT", "fixmatch": "FixMatch"}


@dataclass(frozen=True)
class Study:
    """What is trained and judged on one data set.

    Attributes:
        n_labelled: numbers of labels.
        overrides: of the configs, for every method.
        methods: of the configs, for each.
        sources: of failure, by their names in metrics.json, with their titles.
    """

    n_labelled: tuple[int, ...]
    overrides: tuple[str, ...]
    methods: Mapping[str, tuple[str, ...]]
    sources: Mapping[str, str]


ATTACKS = {"errors": "errors", "adversarial/fgsm": "FGSM", "adversarial/bim": "BIM"}
COMMON = ("experiment=semi_supervised", "+classifier.width=16", "trainer.enable_progress_bar=false", "limit.attack=500")
STUDIES = {
    "digits": Study(
        (20, 50, 200),
        (
            "ood=[patches]",
            "data.calibration_every=4",
            "data.validation_every=5",
            "data.augment.crop_padding=1",
            "trainer.max_steps=400",
        ),
        {
            "supervised": (),
            "mean_teacher": ("training.unlabelled.ratio=2", "training.decay=0.98", "training.noise=0.03"),
            "vat": ("training.unlabelled.ratio=2", "training.eps=0.8"),
            "fixmatch": ("training.unlabelled.ratio=2", "training.decay=0.98", "training.threshold=0.9"),
        },
        ATTACKS | {"ood/patches": "patches"},
    ),
    "fashion_mnist": Study(
        (100, 400, 4000),
        ("ood=[mnist]", "data.calibration_every=2", "mixture.em.tol=1e-2", "trainer.max_steps=1200"),
        {
            "supervised": (),
            "mean_teacher": (
                "optimizer.lr=1e-2",
                "training.unlabelled.ratio=2",
                "training.unlabelled.views=[strong,weak]",
                "training.weight=3",
                "training.decay=0.99",
                "training.noise=0",
            ),
            "vat": (
                "optimizer.lr=1e-2",
                "training.unlabelled.ratio=2",
                "training.eps=1.0",
                "training.weight=0.3",
                "training.entropy_weight=0",
            ),
            "fixmatch": (
                "optimizer.lr=1e-2",
                "training.unlabelled.strong.cutout=0.1",
                "training.decay=0.99",
                "training.threshold=0.8",
            ),
        },
        ATTACKS | {"ood/mnist": "MNIST"},
    ),
}

Row = dict[str, Any]


# ---- measuring


def accuracy(classifier: nn.Module, loader: DataLoader[Any]) -> float:
    """Share of the loader's images that the classifier gets right."""
    classifier.eval()
    with torch.no_grad():
        right = [classifier(images).argmax(1) == labels for images, labels in loader]
    return float(torch.cat(right).double().mean())


def train(overrides: Sequence[str], weights: Path) -> Row:
    """Train a classifier and keep its weights."""
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(composed(*overrides), Path(folder))
        run.classifier.to(memory_format=torch.channels_last)  # faster on a CPU
        train_classifier(run)
        weights.parent.mkdir(parents=True, exist_ok=True)
        (Path(folder) / WEIGHTS).replace(weights)
    return {
        "training_seconds": round(time.process_time() - start),
        "validation_accuracy": accuracy(run.classifier, run.data.val_dataloader()),
        "accuracy": accuracy(run.classifier, run.data.test_dataloader()),
        "device": device_name(run.device),
        "versions": {name: version(name) for name in PACKAGES},
    }


def judge(overrides: Sequence[str], weights: Path, names: Iterable[str]) -> Row:
    """Fit, calibrate and evaluate a detector for the classifier; what the table needs."""
    with tempfile.TemporaryDirectory() as folder:
        run_task(composed(*overrides, f"classifier.checkpoint={weights}"), Path(folder))
        metrics = json.loads((Path(folder) / "metrics.json").read_text())
    sources = {source: metrics["sources"][source] for source in names}
    return {
        "auroc": {source: found["auroc"] for source, found in sources.items()},
        "max_softmax": {source: found["baselines"]["max_softmax"]["auroc"] for source, found in sources.items()},
        "n": {source: found["n"] for source, found in sources.items()},
        "success_rate": {s: found["success_rate"] for s, found in sources.items() if "success_rate" in found},
        "false_alarm_rate": metrics["calibration"]["false_alarm_rate"],
        "n_fitted": metrics["n_fitted"],
        "n_calibration": metrics["calibration"]["n"],
        "n_test": metrics["splits"]["test"],
    }


def cells(names: Iterable[str], n_seeds: int) -> list[Row]:
    """Data, method, number of labels and seed of every row; the seeds after the first for the fewest labels alone."""
    found = []
    for data in names:
        study = STUDIES[data]
        for seed in range(n_seeds):
            for n_labelled in study.n_labelled if seed == 0 else study.n_labelled[:1]:
                cell = {"data": data, "n_labelled": n_labelled, "seed": seed}
                found += [{**cell, "method": method} for method in study.methods]
    return found


def read() -> dict[str, Any]:
    """What was measured so far."""
    return json.loads(RESULT.read_text()) if RESULT.exists() else {"rows": []}


# ---- showing


def spread(values: Sequence[float]) -> str:
    """Mean in per cent, with the standard deviation where there are several."""
    if not values:
        return "–"
    mean = f"{100 * statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def table_row(method: str, n_labelled: int, sources: Iterable[str], rows: Sequence[Row]) -> list[str]:
    """A line of the table: the rows of one cell, which differ by their seed."""
    judged = [row for row in rows if "auroc" in row]
    areas = (
        f"{spread([row['auroc'][s] for row in judged])} / {spread([row['max_softmax'][s] for row in judged])}"
        for s in sources
    )
    accuracies = (spread([row[key] for row in rows]) for key in ("validation_accuracy", "accuracy"))
    return [f"{n_labelled:,}", NAMES[method], str(len(rows)), *accuracies, *areas]


def document(result: Mapping[str, Any], data: str) -> str:
    """The table of a data set, in Markdown, and what it rests on."""
    study, rows = STUDIES[data], [row for row in result["rows"] if row["data"] == data]
    head = [
        "labels",
        "training",
        "seeds",
        "validation",
        "test",
        *(f"{n}, ours / softmax" for n in study.sources.values()),
    ]
    by_cell: dict[tuple[int, str], list[Row]] = {(n, m): [] for n in study.n_labelled for m in study.methods}
    for row in rows:
        by_cell[row["n_labelled"], row["method"]].append(row)
    lines = [table_row(method, n, study.sources, found) for (n, method), found in by_cell.items() if found]
    about = (
        "Accuracy on validation and test images, and AUROC, in %; ± is the standard deviation over seeds, which change "
        "labelled images, initial weights and order; detectors are judged with seed 0."
    )
    judged = [row for row in rows if "auroc" in row]
    if judged:
        ranges = {name: [row["n"][source] for row in judged] for source, name in study.sources.items()}
        about += (
            f" {judged[0]['n_test']:,} test images; detectors fitted to {judged[0]['n_fitted']:,} images and "
            f"calibrated on {judged[0]['n_calibration']:,}. Failures: "
            + ", ".join(f"{name} {min(n):,} to {max(n):,}" for name, n in ranges.items())
            + "."
        )
    machines = {f"{row['device']}; {pages.versions_text(row['versions'])}" for row in rows}
    return f"{pages.table(head, lines)}\n\n{about} {'; '.join(sorted(machines))}."


# ---- the command


def main() -> None:
    """Measure what is missing; see the first lines of the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", default=list(STUDIES), choices=[*STUDIES, []], help="none: write the page")
    parser.add_argument("--mnist", default="data", help="a folder with the IDX files of MNIST's test split")
    parser.add_argument("--data-root", default="data", help="the folder of datasets, with Fashion-MNIST")
    parser.add_argument("--accelerator", default="cpu", help="of Lightning's Trainer")
    parser.add_argument(
        "--seeds", type=int, default=3, help="of the cells with the fewest labels; of others there is 1"
    )
    parser.add_argument("--labels", type=int, nargs="+", help="only these numbers of labels")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES, help="of what is missing")
    parser.add_argument("--weights", default="runs/semi_supervised", help="where the classifiers are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quieten()
    result = read()
    todo = [c for c in cells(options.data, options.seeds) if not options.labels or c["n_labelled"] in options.labels]
    for stage in options.stages:
        for cell in todo:
            row = next((each for each in result["rows"] if cell.items() <= each.items()), None)
            if stage == "train" and row is not None:
                continue
            if stage == "judge" and (row is None or "auroc" in row or row["seed"]):
                continue
            print(stage, cell, flush=True)
            data, n_labelled, seed, method = cell.values()
            study = STUDIES[data]
            overrides = [*COMMON, f"data={data}", *study.overrides, f"trainer.accelerator={options.accelerator}"]
            overrides += [f"training={method}", f"data.n_labelled={n_labelled}", f"seed={seed}", *study.methods[method]]
            if data != "digits":
                overrides += [f"ood.mnist.root={options.mnist}", f"data.root={options.data_root}"]
            weights = Path(options.weights).resolve() / f"{data}-{method}-{n_labelled}-{seed}.safetensors"
            if row is None:
                result["rows"].append(cell | train(overrides, weights))
                print(result["rows"][-1], flush=True)
            else:
                row |= judge(overrides, weights, study.sources)
            pages.save(RESULT, result)
    for data in {row["data"]: None for row in result["rows"]}:
        text = document(result, data)
        print(text)
        pages.fill(PAGE, data, text)


if __name__ == "__main__":
    main()
