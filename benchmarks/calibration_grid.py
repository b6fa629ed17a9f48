"""What few images cost: the default detector over how many it is fitted to, and how many calibrate it.

    pip install -e '.[benchmarks]'
    python benchmarks/calibration_grid.py --title 'ResNet-20, CIFAR-10' --outputs runs/grid/resnet20.safetensors \
        --config classifier=resnet20 classifier.checkpoint=resnet20.safetensors data=image_folder \
        data.root=cifar10-jpeg 'data.image_shape=[3,32,32]' \
        --ood tiny-imagenet=tiny-imagenet-32 fashion=fashion_mnist mnist=mnist uniform=uniform_noise \
        --document docs/calibration.md

One run measures one network and replaces its rows in the result; `--config` is what `gmm-torch` would be given, so a
network of your own is `classifier._target_=package.function`. The classifier's outputs are kept in the file
`--outputs`; where that file is there already, it is read, and neither checkpoint nor images are needed.

The detector is fitted on images that the classifier was trained on. Of the test images `N_CALIBRATION` may calibrate
and others are judged; a seed decides which images of both kinds a cell takes: those to fit are drawn anew for each row
and seed, those to calibrate for each cell and seed. Columns are those of `detection.py`: wrong predictions, attacks
that succeeded, sets of another distribution. The softmax beside is its maximum, on the same images.
"""

import argparse
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from configuration import composed
from detection import ERRORS, FOOLBOX_STEP, VIEWS, Attacks, Scorer, Split, Workbench, area, judged, ood_sets
from hydra.utils import instantiate
from pages import RESULTS, fill, save, table, versions_text
from problems import facts
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gmm_torch import FailureDetector
from gmm_torch.detector import Features
from gmm_torch.features.layers import DEPTHS
from gmm_torch.files import atomic_path
from trainers.classifiers.build import build_classifier
from trainers.run.job import quieten

RESULT = RESULTS / "calibration_grid.json"
FITTED = (100, 200, 500, 2000, 6000, 20_000)
CALIBRATED = (20, 60, 140, 200, 600, 2000)
N_CALIBRATION = 2000  # test images that may calibrate
FEW = (500, 60)  # fitted, calibrated: what the second goal is about
GOALS = "goals: at most 3 and at most 5 points"


def attacks(large: str, small: str) -> Attacks:
    """One and several steps at a large budget, several at a small one, and the nearest that DeepFool finds."""
    return {
        "fgsm": ("fgsm", {"epsilon": large}),
        "bim": ("bim", {"epsilon": large}),
        "pgd": ("pgd", {"epsilon": large, "method": FOOLBOX_STEP}),
        "pgd2": ("pgd2", {"epsilon": small, "method": FOOLBOX_STEP}),
        "deepfool": ("deepfool", {"n_images": 250}),
    }


# ---- outputs


@dataclass(frozen=True)
class Pools:
    """A classifier's outputs.

    Attributes:
        fit: on images that it was trained on.
        calibration, test: on images that it has not seen.
        right: (n_test,) bool, rightly classified.
        failures: column -> on attacked images and other distributions.
        attacks: column -> what the attack was, for those of the failures that are attacked images.
    """

    fit: Features
    calibration: Features
    test: Features
    right: Tensor
    failures: dict[str, Features]
    attacks: dict[str, str]

    def save(self, path: Path) -> None:
        """As safetensors; the file is replaced whole."""
        tensors = {"right": self.right}
        groups = {"fit": self.fit, "calibration": self.calibration, "test": self.test}
        for name, outputs in {**groups, **{f"failures/{name}": each for name, each in self.failures.items()}}.items():
            for layer, value in {"": outputs.logits, **outputs.layers}.items():
                tensors[f"{name}:{layer}"] = value.contiguous()
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            orders = {"layers": [*self.fit.layers], "columns": [*self.failures], "attacks": self.attacks}
            save_file(tensors, temporary, {name: json.dumps(order) for name, order in orders.items()})

    @staticmethod
    def load(path: Path) -> "Pools":
        """What `save` wrote."""
        with safe_open(path, "pt") as file:
            about = {name: json.loads(text) for name, text in file.metadata().items()}

            def outputs(group: str) -> Features:
                features = {layer: file.get_tensor(f"{group}:{layer}") for layer in about["layers"]}
                return Features(file.get_tensor(f"{group}:"), features)

            failures = {name: outputs(f"failures/{name}") for name in about["columns"]}
            pools = [outputs(group) for group in ("fit", "calibration", "test")]
            return Pools(*pools, file.get_tensor("right"), failures, about["attacks"])


def made(options: argparse.Namespace) -> Pools:
    """Attacks and outputs of the command line's network."""
    cfg = composed(*options.config)
    source = instantiate(cfg.data.source)
    train, test = (source(root=cfg.data.root, split=split) for split in ("train", "test"))
    classifier = build_classifier(cfg.classifier, len(train.class_names), train.image_shape).to(options.device)
    bench = Workbench(
        classifier,
        train,
        test,
        ood_sets(options.ood, train.image_shape, options.n_ood),
        SimpleNamespace(
            device=options.device,
            cache=options.outputs.with_suffix(""),
            n_fit=max(FITTED),
            held_out_every=options.held_out_every,
        ),
    )
    study, about = bench.study(attacks(*options.budgets))
    n = len(study.test_labels)
    split = Split.draw(0, n, min(N_CALIBRATION, n // 2), n)
    layers = study.layers[DEPTHS]

    def seen(outputs: Features, rows: Tensor) -> Features:
        return Features(outputs.logits[rows], {layer: outputs.layers[layer][rows] for layer in layers})

    return Pools(
        fit=seen(study.fit, torch.arange(len(study.fit_labels))),
        calibration=seen(study.test, split.calibration),
        test=seen(study.test, split.test),
        right=study.right[split.test],
        failures={name: seen(each.outputs, judged(study, split, name)) for name, each in study.failures.items()},
        attacks={name: described(each["config"]) for name, each in about.items()},
    )


def described(config: Mapping[str, Any]) -> str:
    """An attack in words."""
    method = dict(config["method"])
    kind = method.pop("_target_").rpartition(".")[2]
    budget = "as small as it finds" if config["epsilon"] is None else f"budget {config['epsilon']}"
    return f"foolbox {kind}, {budget}" + "".join(f", {name} {value}" for name, value in method.items())


# ---- the grid


@torch.no_grad()
def areas(scorer: Scorer, pools: Pools) -> dict[str, float]:
    """Column -> area under the ROC curve in percent."""
    test = scorer(pools.test)
    right, wrong = test[pools.right], test[~pools.right]
    found = {name: area(right if name in pools.attacks else test, scorer(o)) for name, o in pools.failures.items()}
    return {ERRORS: area(right, wrong), **found}


def softmax(outputs: Features) -> Tensor:
    """The largest log-probability, (N,)."""
    return outputs.own_logits.log_softmax(-1).amax(-1)


def drawn(outputs: Features, n: int, *seeds: int) -> Features:
    """Some of them, without replacement."""
    seed = sum(seed * 1_000_003**i for i, seed in enumerate(seeds)) % 2**63
    return outputs.rows(torch.randperm(len(outputs.logits), generator=torch.Generator().manual_seed(seed))[:n])


def row(pools: Pools, n_fitted: int, n_calibrated: Iterable[int], seeds: Sequence[int]) -> dict[str, Any]:
    """Calibrated images -> areas, means over the seeds; and how far the seeds lie apart."""
    found: dict[int, list[dict[str, float]]] = {}
    for seed in seeds:
        detector = FailureDetector(nn.Identity(), views=VIEWS, seed=seed)  # the classifier's work is done
        detector.fit(drawn(pools.fit, n_fitted, seed, n_fitted))
        for n in n_calibrated:
            detector.calibrate(drawn(pools.calibration, n, seed, n_fitted, n))
            found.setdefault(n, []).append(areas(detector.score, pools))
    return {"seeds": list(seeds), "cells": {str(n): summary(each) for n, each in found.items()}}


def summary(each: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Of the areas of every seed."""

    def mean(values: Sequence[float]) -> float:
        return round(sum(values) / len(values), 2)

    means = [sum(one.values()) / len(one) for one in each]
    return {
        "mean": mean(means),
        "min": mean([min(one.values()) for one in each]),
        ERRORS: mean([one[ERRORS] for one in each]),
        "range of mean": [round(min(means), 2), round(max(means), 2)],
        "columns": {column: mean([one[column] for one in each]) for column in each[0]},
    }


# ---- the page


def cells_of(network: Mapping[str, Any]) -> dict[tuple[int, int], Mapping[str, Any]]:
    """(fitted, calibrated) -> summary, in ascending order."""
    found = {(int(m), int(n)): cell for m, line in network["rows"].items() for n, cell in line["cells"].items()}
    return dict(sorted(found.items()))


def steps(cells: Mapping[tuple[int, int], Mapping[str, Any]]) -> dict[str, tuple[float, str]]:
    """Direction -> the largest step of the mean between neighbours, and where."""
    fitted, calibrated = (sorted({key[axis] for key in cells}) for axis in (0, 1))
    across = [((m, a), (m, b)) for m in fitted for a, b in itertools.pairwise(calibrated)]
    down = [((a, n), (b, n)) for n in calibrated for a, b in itertools.pairwise(fitted)]
    found = {}
    for name, pairs in (("calibrated", across), ("fitted", down)):
        size, first, second = max((abs(cells[b]["mean"] - cells[a]["mean"]), a, b) for a, b in pairs)
        place = {"calibrated": f"{first[0]:,} fitted, {first[1]:,} to {second[1]:,} calibrated"}
        place["fitted"] = f"{first[0]:,} to {second[0]:,} fitted, {first[1]:,} calibrated"
        found[name] = (size, place[name])
    return found


def goals(network: Mapping[str, Any]) -> dict[str, tuple[float, str]]:
    """What was asked of the grid: how far errors fall under the softmax, and what `FEW` images cost; and where."""
    cells = cells_of(network)
    softmax_errors = network["softmax"][ERRORS]
    fall, place = max((softmax_errors - cell[ERRORS], key) for key, cell in cells.items())
    full = max(cells)
    return {
        ERRORS: (fall, f"{place[0]:,} fitted, {place[1]:,} calibrated"),
        "few": (cells[full]["mean"] - cells[FEW]["mean"], f"{full[0]:,} fitted, {full[1]:,} calibrated"),
    }


def spread(cells: Mapping[tuple[int, int], Mapping[str, Any]]) -> float:
    """How far the means of two seeds lie apart, at most in any cell."""
    return max(high - low for low, high in (cell["range of mean"] for cell in cells.values()))


def signed(fall: float) -> str:
    """A fall in words."""
    return f"{fall:.1f} points under" if fall >= 0 else f"{-fall:.1f} points above"


def document(result: Mapping[str, Any]) -> str:
    """The tables, in Markdown."""
    text = []
    for title, network in result["networks"].items():
        cells, line = cells_of(network), network["softmax"]
        calibrated = sorted({n for _, n in cells})
        rows = []
        for m in sorted({m for m, _ in cells}):
            of_row = [cells[m, n] for n in calibrated]
            lowest = min(cell["min"] for cell in of_row)
            rows.append([f"{m:,}", *(f"{c['mean']:.1f} ({c[ERRORS]:.1f})" for c in of_row), f"{lowest:.1f}"])
        counts = ", ".join(f"{column} {n}" for column, n in network["n"].items())
        text.append(
            f"**{title}** (accuracy {100 * network['accuracy']:.1f} %; failures: {counts}; softmax: mean "
            f"{line['mean']:.1f}, errors {line[ERRORS]:.1f})"
        )
        text.append(table(["fitted", *(f"{n:,} calibrated" for n in calibrated), "lowest column"], rows))
        found, moved = goals(network), steps(cells)
        (fall, place), (cost, full) = found[ERRORS], found["few"]
        text.append(
            f"Errors are at worst {signed(fall)} the softmax ({place}); {FEW[0]} fitted and {FEW[1]} calibrated are "
            f"{signed(cost)} {full} in the mean ({GOALS}). Largest steps of the mean between neighbours: "
            + "; ".join(f"{size:.1f} ({where})" for size, where in moved.values())
            + f". Seeds: {seeds_in_words(network)}; their means lie up to {spread(cells):.1f} points apart in a cell."
        )
    machine, versions = result["facts"], result["facts"]["versions"]
    text.append(
        "Mean AUROC in % over all columns (errors in brackets), means over the seeds; the lowest column is that of the "
        f"row's worst cell. {machine['device']}; " + versions_text(versions) + "."
    )
    return "\n\n".join(text)


def seeds_in_words(network: Mapping[str, Any]) -> str:
    """How many seeds each row has."""
    rows = {int(m): len(line["seeds"]) for m, line in network["rows"].items()}
    by_count: dict[int, list[str]] = {}
    for m, n in sorted(rows.items()):
        by_count.setdefault(n, []).append(f"{m:,}")
    if len(by_count) == 1:
        return str(next(iter(by_count)))
    return "; ".join(f"{n} with {', '.join(each)} fitted" for n, each in by_count.items())


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--title", required=True, help="of the network's table")
    parser.add_argument("--outputs", required=True, type=Path, help="read if it is there, or else written")
    parser.add_argument(
        "--config", nargs="*", default=[], metavar="KEY=VALUE", help="of classifier and data; see conf/"
    )
    parser.add_argument("--ood", nargs="*", default=[], metavar="NAME=SET", help="see detection.py")
    parser.add_argument("--budgets", nargs=2, default=("8/255", "2/255"), metavar=("LARGE", "SMALL"))
    parser.add_argument("--held-out-every", type=int, default=10, help="see detection.py")
    parser.add_argument("--n-ood", type=int, default=1000)
    parser.add_argument("--fitted", type=int, nargs="+", default=list(FITTED), help="rows to measure")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="of the classifier")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--document", type=Path, help="a Markdown file whose marked lines are replaced by the tables")
    options = parser.parse_args()
    options.ood = dict(entry.split("=", 1) for entry in options.ood)
    return options


def main() -> None:
    """Measure one network; see the first lines of the module."""
    options = parse()
    quieten()
    if not options.outputs.exists():
        made(options).save(options.outputs)
    pools = Pools.load(options.outputs)
    result = json.loads(options.result.read_text()) if options.result.exists() else {"networks": {}}
    result["facts"] = facts(torch.device("cpu"), "torchvision", "foolbox", "scikit-learn")
    network = result["networks"].setdefault(options.title, {"rows": {}})
    of_softmax = summary([areas(softmax, pools)])
    network |= {
        "accuracy": round(float(pools.right.double().mean()), 4),
        "n": {ERRORS: int((~pools.right).sum())} | {name: len(o.logits) for name, o in pools.failures.items()},
        "test": len(pools.right),
        "layers": list(pools.fit.layers),
        "attacks": pools.attacks,
        "softmax": of_softmax,
    }
    for n_fitted in options.fitted:
        if n_fitted > len(pools.fit.logits):
            continue
        calibrated = [n for n in CALIBRATED if n <= len(pools.calibration.logits)]
        network["rows"][str(n_fitted)] = row(pools, n_fitted, calibrated, options.seeds)
        network["rows"] = {key: network["rows"][key] for key in sorted(network["rows"], key=int)}
        cells = network["rows"][str(n_fitted)]["cells"]
        print(n_fitted, *(f"{n}: {c['mean']:.1f} ({c[ERRORS]:.1f})" for n, c in cells.items()), flush=True)
        save(options.result, result)
    if options.document:
        fill(options.document, "calibration_grid", document(result))


if __name__ == "__main__":
    main()
