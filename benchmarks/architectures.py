"""The failure detector beside its peers on networks of many kinds, trained here: `docs/architectures.md`.

    pip install -e '.[benchmarks,examples]'
    python benchmarks/architectures.py train
    python benchmarks/architectures.py evaluate --document
    python benchmarks/architectures.py evaluate --networks vit,convnext

`train` keeps the weights of every network in the folder `--cache` and skips those that are there. `evaluate` attacks
test images, runs the peers and runs the detector with its defaults, as a user would; attacked images and what the peers
reach are kept in the cache, so that another default is measured in minutes. The results of a network replace those in
the file `--result`; the others stay.

Columns are those of `detection.py`: `errors` has the wrongly classified test inputs against the right ones, an attack's
column the attacked images that changed class against the right ones, any other set its inputs against all.
"""

import argparse
import hashlib
import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from architectures_data import Data, Folders, load, outside
from architectures_networks import CIFAR, DIGITS, FASHION, PIXELS, RECIPES, TEXT
from architectures_page import document, in_short
from architectures_training import accuracy, as_input, train_all, trained
from detection import (
    ATTACKS,
    ERRORS,
    VIEWS,
    Attacks,
    Row,
    Split,
    Study,
    Workbench,
    areas,
    judged,
    peer_rows,
)
from pages import RESULTS, ROOT, fill, save
from torch import Tensor
from torch.utils.data import Dataset

from gmm_torch.detector import FailureDetector, Features
from gmm_torch.features.layers import PENULTIMATE
from trainers.data.images import UNKNOWN_LABEL, ImageArray

PAGE = ROOT / "docs" / "architectures.md"
PACKAGES = ("gmm_torch", "torch", "torchvision", "timm", "transformers", "foolbox", "pytorch-ood", "scikit-learn")
DEFAULT = "default"

N_ATTACKED = {"deepfool": 200, "cw_l2": 150}  # the slow ones; of the others
MANY_ATTACKED = 500
# Small perturbations change few of a network's predictions on clothes: twice the budget, three times the small one.
BUDGETS = {CIFAR: {}, FASHION: {"fgsm": "16/255", "bim": "16/255", "pgd": "16/255", "pgd2": "6/255"}}
# How many inputs a detector is fitted on, calibrated on and judged on, and how many a set of others has.
SIZES = {
    CIFAR: (13_500, 2000, 3000, 1000),
    FASHION: (13_500, 2000, 3000, 1000),
    TEXT: (13_500, 2000, 3000, 1000),
    DIGITS: (500, 370, 573, 1000),
}


class Inputs(Dataset[tuple[Tensor, int]]):
    """Inputs that are no images, with labels."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs = inputs
        self.targets = targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.inputs[index], int(self.targets[index])


def inputs(x: Tensor, labels: Tensor | None = None) -> Any:
    """A data set; images where x has bytes."""
    labels = torch.full((len(x),), UNKNOWN_LABEL) if labels is None else labels
    return ImageArray(x, labels) if x.dtype == torch.uint8 else Inputs(x, labels)


def attacks_on(data: str) -> Attacks:
    """On images, the attacks of `detection.py` on fewer images; on the rest none."""
    chosen = {}
    for name, (base, changes) in ATTACKS.items() if data in PIXELS else ():
        budget = {"epsilon": BUDGETS[data][name]} if name in BUDGETS[data] else {}
        chosen[name] = (base, {**changes, "n_images": N_ATTACKED.get(name, MANY_ATTACKED), **budget})
    return chosen


def tested(data: Data, n: int) -> Data:
    """With at most n test inputs, drawn at random."""
    order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))[:n].sort().values
    return data._replace(test=data.test[order], test_labels=data.test_labels[order])


class Judged:
    """A network, what it is judged on, and what is made of both."""

    def __init__(self, name: str, folders: Folders, seeds: Sequence[int]) -> None:
        self.name = name
        self.recipe = RECIPES[name]
        self.sizes = SIZES[self.recipe.data]
        n_fit, n_calibration, n_test, n_outside = self.sizes
        whole = load(self.recipe.data, folders)
        self.data = tested(whole, n_calibration + n_test)
        self.classifier = trained(name, folders)
        self.accuracy = accuracy(self.classifier, whole.test, whole.test_labels)
        self.n_all = len(whole.test)
        self.views = VIEWS if self.recipe.data in PIXELS else VIEWS[:1]
        self.splits = [Split.draw(seed, len(self.data.test), n_calibration, n_test) for seed in seeds]
        self.outside = outside(self.recipe.data, self.data, folders, n_outside)
        options = argparse.Namespace(device="cpu", cache=folders.cache / "judged", held_out_every=0, n_fit=n_fit)
        self.bench = Workbench(
            self.classifier,
            inputs(self.data.train, self.data.train_labels),
            inputs(self.data.test, self.data.test_labels),
            {column: inputs(x) for column, x in self.outside.items()},
            options,
            rules=(PENULTIMATE,),
            views=self.views,
        )
        self.attacks = attacks_on(self.recipe.data)

    @cached_property
    def study(self) -> tuple[Study, dict[str, Any]]:
        """What peers look at, and what the attacks say of themselves."""
        return self.bench.study(self.attacks)

    def sets(self) -> dict[str, Tensor]:
        """All inputs: for fitting, of the test part under "", and of every column."""
        attacked = {name: self.bench.attacked(name, *how)[0].images for name, how in self.attacks.items()}
        fit = self.data.train[self.bench.fit_indices()]
        return {"fit": fit, "": self.data.test, **attacked, **self.outside}

    # ---- peers

    def peers(self) -> dict[str, Any]:
        """Rows of all peers, and who did not run; kept in the cache."""
        study, _ = self.study
        columns = {column: len(failures.source) for column, failures in study.failures.items()}
        seeds = [split.seed for split in self.splits]
        key = repr((columns, self.sizes, seeds, self.views, version("pytorch-ood")))
        path = self.bench.cache / f"peers-{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"
        if not path.exists():
            rows, reasons = peer_rows(study, self.splits)
            found = {"rows": [summarised(row, list(columns)) for row in rows], "not run": reasons}
            save(path, found)
        return json.loads(path.read_text(encoding="utf-8"))

    # ---- the detector

    def default(self) -> dict[str, Any]:
        """Rows of the detector as a user makes it, with its views and in one pass; and what it looked at."""
        study, _ = self.study
        rows, layers, rule, weights = [], {}, "", {}
        for n in sorted({len(self.views), 1}, reverse=True):
            looked = FailureDetector(self.classifier, views=n)
            seen = {name: looked.features(batches(x)) for name, x in self.sets().items()}
            rule, layers[f"views={n}"] = looked.extractor.found_by, looked.extractor.layers
            row, shares = Row(DEFAULT, f"views={n}"), []
            for split in self.splits:
                detector = FailureDetector(self.classifier, views=n, layers=looked.extractor.layers, seed=split.seed)
                detector.fit(seen["fit"])
                detector.calibrate(seen[""].rows(split.calibration))
                row.add(areas(scores(detector, seen), study, split))
                shares.append(detector.score.shares())
            rows.append(summarised(row, list(study.failures)))
            weights[f"views={n}"] = {part: round(mean(each[part] for each in shares), 3) for part in shares[0]}
        return {"rows": rows, "layers": layers, "rule": rule, "weights": weights}

    def result(self) -> dict[str, Any]:
        """Everything, for the file of results."""
        started = time.perf_counter()
        study, about = self.study
        peers, prepared = self.peers(), time.perf_counter()
        default, done = self.default(), time.perf_counter()
        print(f"{self.name}: peers {prepared - started:.0f} s, default {done - prepared:.0f} s", flush=True)
        counts = {name: [len(judged(study, split, name)) for split in self.splits] for name in study.failures}
        counts[ERRORS] = [int((~study.right[split.test]).sum()) for split in self.splits]
        _, n_calibration, n_test, _ = self.sizes
        return {
            "kind": self.recipe.kind,
            "data": self.recipe.data,
            "trained here": not self.recipe.given,
            "chosen on": self.recipe.chosen_on,
            "accuracy": self.accuracy,
            "parameters": sum(p.numel() for p in self.classifier.parameters()),
            "layers": default["layers"],
            "rule": default["rule"],
            "weights": default["weights"],
            "columns": [ERRORS, *study.failures],
            "seeds": [split.seed for split in self.splits],
            "n": {
                "accuracy": self.n_all,
                "fit": len(study.fit_labels),
                "calibration": n_calibration,
                "test": n_test,
                **{name: round(sum(values) / len(values)) for name, values in counts.items()},
            },
            "attacks": about,
            "rows": [*default["rows"], *peers["rows"]],
            "peers not run": peers["not run"],
            "device": f"cpu ({platform.machine()})",
            "versions": {name: version(name) for name in PACKAGES},
        }


def batches(x: Tensor) -> Iterator[Tensor]:
    """Of 250 inputs each."""
    return (as_input(part) for part in x.split(250))


@torch.no_grad()
def scores(detector: FailureDetector, found: Mapping[str, Features]) -> dict[str, Tensor]:
    """Of every set but the fitting inputs.

    Raises:
        ValueError: one is not finite.
    """
    given = {name: detector.score(outputs) for name, outputs in found.items() if name != "fit"}
    for name, value in given.items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"scores of {name or 'test inputs'} are not finite")
    return given


def summarised(row: Row, failures: Sequence[str]) -> dict[str, Any]:
    """Mean and standard deviation over seeds by column."""
    found = row.summary([ERRORS, *failures])
    auroc = {name: {"mean": round(mean, 2), "std": round(std, 2)} for name, (mean, std) in found.items()}
    return {"group": row.group, "method": row.method, "auroc": auroc}


def read(path: Path) -> dict[str, Any]:
    """The results so far: network -> result, in the order of the recipes."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {name: found[name] for name in RECIPES if name in found}


# ---- the command


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["train", "evaluate", "document"])
    parser.add_argument("--networks", default=",".join(RECIPES), help="separated by commas")
    parser.add_argument("--cifar", type=Path, default=Path("cifar10-jpeg"), help="train/<class>/*, test/<class>/*")
    parser.add_argument(
        "--fashion", type=Path, default=Path("/usr/share/datasets/fashion-mnist"), help="four gzipped IDX files"
    )
    parser.add_argument("--mnist", type=Path, default=Path("mnist"), help="t10k-*: two gzipped IDX files")
    parser.add_argument("--tiny", type=Path, default=Path("tiny-imagenet-32"), help="a folder of *.png")
    parser.add_argument(
        "--text", type=Path, default=Path("debian"), help="Packages, Translation-en and Translation-de of a release"
    )
    parser.add_argument("--given", type=Path, default=Path("weights"), help="of the networks that are not trained")
    parser.add_argument("--cache", type=Path, default=Path("runs/architectures"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of calibration splits")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--result", type=Path, default=RESULTS / "architectures.json")
    parser.add_argument("--document", action="store_true", help=f"write the tables into {PAGE.relative_to(ROOT)}")
    options = parser.parse_args(arguments)
    options.networks = options.networks.split(",")
    unknown = sorted(set(options.networks) - set(RECIPES))
    if unknown:
        parser.error(f"--networks: expected some of {', '.join(RECIPES)}; got {', '.join(unknown)}")
    return options


def main() -> None:
    """Run a task; see the first lines of the module."""
    options = parse()
    torch.set_num_threads(options.threads)
    folders = Folders(**{name: getattr(options, name) for name in Folders._fields})
    if options.task == "train":
        train_all(options.networks, folders)
    if options.task == "evaluate":
        for name in options.networks:
            found = {**read(options.result), name: Judged(name, folders, options.seeds).result()}
            save(options.result, {each: found[each] for each in RECIPES if each in found})
    if options.document or options.task == "document":
        fill(PAGE, "architectures", document(read(options.result)))
        fill(ROOT / "README.md", "architectures", in_short(read(options.result)))


if __name__ == "__main__":
    main()
