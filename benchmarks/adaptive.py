"""Attacks that know the detector, on three data sets, with and without adversarial training.

    python benchmarks/adaptive.py --cifar10 cifar10-jpeg --checkpoint resnet20.safetensors

Every row is the application run three times: `task=train` and `task=fit` (not where a checkpoint or a detector is
given, or left from an earlier run in `--folder`), then `task=adaptive`. A row that is in the results is not made again:
delete it, or the file, after changing the library.
The page docs/adaptive.md is filled from the results.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from configuration import composed
from pages import RESULTS, ROOT, filled, save, table, versions_text

from gmm_torch.files import atomic_path
from trainers.report.tables.evasion import (
    BEST,
    STATIC,
    UNDEFENDED,
    auroc_row,
    budget_label,
    budgets,
    find_points,
)
from trainers.report.tables.text import BASELINE, MISSING, percent
from trainers.run.job import quieten, run_task

RESULT = RESULTS / "adaptive.json"
PAGE = ROOT / "docs" / "adaptive.md"
ATTACKS = ("guarded", "joint", "imitation")
ADVERSARIAL = ["training=adversarial"]
KEPT = ("seed", "alpha", "device", "versions", "splits", "classifier", "calibration", "n_fitted")

# name -> overrides of its training; what is trained adversarially sees 8/255, or 32/255 of digits,
# and digits of 8 x 8 pixels bear more than photographs do.
DIGITS = ["data=digits", "data.calibration_every=4", "trainer.max_epochs=30"]
DIGITS_BUDGETS = ["task.budgets=[0.25/255,0.5/255,1/255,2/255,4/255,8/255,16/255,32/255,64/255]"]
FASHION = ["data=fashion_mnist", "classifier=lenet", "data.augment.crop_padding=0", "trainer.max_epochs=5"]
ROWS: dict[str, list[str]] = {
    "digits, standard": [*DIGITS, *DIGITS_BUDGETS],
    "digits, adversarial": [
        *DIGITS,
        *DIGITS_BUDGETS,
        *ADVERSARIAL,
        "training.epsilon=32/255",
        "training.step_size=8/255",
    ],
    "Fashion-MNIST, standard": FASHION,
    "Fashion-MNIST, adversarial": [*FASHION, *ADVERSARIAL, "training.steps=4", "training.step_size=3/255"],
    "CIFAR-10, standard": ["experiment=cifar10_resnet20", "data.source.cache=false", "task.static.steps=20"],
}


def make(
    overrides: Sequence[str], attack: Sequence[str], folder: Path, checkpoint: str | None, detector: str | None
) -> dict[str, Any]:
    """The content of metrics.json of one row, from files in `folder` where they are there."""
    # `task=train` and `task=fit` have no budgets
    mine = [override for override in overrides if override.startswith("task.")]
    common = [*(each for each in overrides if each not in mine), "trainer=cpu", "trainer.enable_progress_bar=false"]
    if checkpoint is None:
        checkpoint = str(folder / "train" / "classifier.safetensors")
        if not Path(checkpoint).exists():
            run_task(composed(*common, "task=train"), folder / "train")
    common.append(f"classifier.checkpoint={checkpoint}")
    if detector is None:
        detector = str(folder / "fit" / "detector.safetensors")
        if not Path(detector).exists():
            run_task(composed(*common, "task=fit"), folder / "fit")
    run_task(composed(*common, *attack, *mine, f"checkpoint={detector}", "task=adaptive"), folder / "adaptive")
    return json.loads((folder / "adaptive" / "metrics.json").read_text(encoding="utf-8"))


def row(metrics: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """What the results keep of it."""
    sources = {
        name: {key: source.get(key) for key in ("epsilon", "n", "auroc", "n_attacked", "success_rate")}
        for name, source in metrics["sources"].items()
        if name.startswith("adversarial/")
    }
    evasion = dict(metrics["evasion"])
    # other work on the machine decides how long a search takes
    evasion["curves"] = [{k: v for k, v in curve.items() if k != "seconds"} for curve in evasion["curves"]]
    return {
        "overrides": list(overrides),
        **{key: metrics[key] for key in KEPT if key in metrics},
        "sources": sources,
        "evasion": evasion,
    }


# ---- the page


def curve_tables(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """One table a row: images that are wrong and accepted, by defence and budget."""
    parts = []
    for name, each in rows.items():
        ours = each["evasion"]["defence"]
        lines = []
        for label, defence, attack in (
            ("no detector", UNDEFENDED, BEST),
            ("largest softmax, adaptive", BASELINE, BEST),
            ("detector, PGD that does not know it", ours, STATIC),
        ):
            lines.append([label, *(percent(point["rate"], 0) for point in find_points(each, defence, attack))])
        best = [f"**{percent(point['rate'], 0)}** {_interval(point)}" for point in find_points(each, ours, BEST)]
        lines += [["detector, adaptive", *best], ["AUROC on images of that PGD", *auroc_row(each)]]
        parts.append(table([f"{name}, {_n(each)}", *_budgets(each)], lines))
    return "\n\n".join(parts)


def _n(each: Mapping[str, Any]) -> str:
    return f"n = {each['evasion']['n_attacked']}"


def _budgets(each: Mapping[str, Any]) -> list[str]:
    return [budget_label(epsilon) for epsilon in budgets(each)]


def _interval(point: Mapping[str, Any]) -> str:
    return f"({percent(point['interval'][0], 0)}–{percent(point['interval'][1], 0)})"


def attack_tables(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Which attack did what against the detector, and what it does without a budget; one table a row."""
    parts = []
    for name, each in rows.items():
        lines = []
        for curve in each["evasion"]["curves"]:
            if curve["defence"] == each["evasion"]["defence"] and curve["unrestricted"] is not None:
                cells = [percent(point["rate"], 0) for point in curve["points"]]
                label = "best of all" if curve["attack"] == BEST else curve["attack"].replace("_", " ")
                lines.append([label, *cells, percent(curve["unrestricted"], 0)])
        parts.append(table([name, *_budgets(each), "no budget"], lines))
    return "\n\n".join(parts)


def circumstances(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """What the tables rest on, one line a row."""
    head = [
        "",
        "attacked",
        "test accuracy",
        "false alarms, detector",
        "false alarms, softmax",
        "calibration",
    ]
    lines = []
    for name, each in rows.items():
        found = each["evasion"]
        alarms = [found["false_alarms"].get(key) for key in (found["defence"], BASELINE)]
        lines.append(
            [
                name,
                str(found["n_attacked"]),
                f"{percent(each['classifier']['test_accuracy'])} %",
                *(f"{percent(alarm['rate'])} %" if alarm else MISSING for alarm in alarms),
                str(each["calibration"]["n"]),
            ]
        )
    first = next(iter(rows.values()))
    attacks = "; ".join(
        f"{name.replace('_', ' ')} {each['steps']} steps, {each['restarts']} restarts"
        for name, each in first["evasion"]["attacks"].items()
    )
    versions = versions_text(first["versions"])
    where = f"alpha {first['alpha']:g}, seed {first['seed']}, {first['device']}"
    missing = [name for name in ROWS if name not in rows]
    where += f". Not measured yet: {'; '.join(missing)}" if missing else ""
    return f"{table(head, lines)}\n\n{where}. {attacks}. {versions}."


def warnings_of(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """What the guards said."""
    found = [f"- {name}: {text}." for name, each in rows.items() for text in each["evasion"]["warnings"]]
    return "\n".join(found) or "None."


def filled_page(page: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The page with the tables of the rows."""
    for name, text in (
        ("curves", curve_tables(rows)),
        ("attacks", attack_tables(rows)),
        ("circumstances", circumstances(rows)),
        ("warnings", warnings_of(rows)),
    ):
        page = filled(page, name, text)
    return page


def main() -> None:
    """Make the rows that are not there yet, save each as it ends, fill the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS), metavar="NAME")
    parser.add_argument("--cifar10", help="CIFAR-10 as a folder with train/<class>/* and test/<class>/*")
    parser.add_argument("--checkpoint", help="weights of a ResNet-20 for it")
    parser.add_argument("--detector", help="one that was fitted for it before; without, it is fitted")
    parser.add_argument("--n-images", type=int, default=50, help="attacked, of each row")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--restarts", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs") / "adaptive")
    parser.add_argument("--page", action="store_true", help="only fill the page")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quieten()
    rows = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    settings = [(name, key) for name in ATTACKS for key in ("steps", "restarts")]
    attack = [
        f"adaptive=[{','.join(ATTACKS)}]",
        *(f"adaptive.{name}.{key}={getattr(options, key)}" for name, key in settings),
    ]
    attack += [f"task.n_images={options.n_images}", f"task.n_unrestricted={min(options.n_images, 20)}"]
    for name in [] if options.page else options.rows:
        overrides, checkpoint, detector = ROWS[name], None, None
        if name in rows:
            continue
        if name.startswith("CIFAR-10"):
            if not (options.cifar10 and options.checkpoint):
                print(f"{name}: skipped, for want of --cifar10 and --checkpoint")
                continue
            overrides = [*overrides, f"data.root={options.cifar10}"]
            checkpoint, detector = options.checkpoint, options.detector
        print(name, flush=True)
        folder = options.folder / name.replace(", ", "-")
        metrics = make(overrides, attack, folder, checkpoint, detector)
        rows[name] = row(metrics, [*ROWS[name], *attack])
        rows = {key: rows[key] for key in ROWS if key in rows}
        save(RESULT, rows)
    if rows:
        page = filled_page(PAGE.read_text(encoding="utf-8"), rows)
        with atomic_path(PAGE) as temporary:
            temporary.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
