"""How well the detector sees attacks that don't know it, and errors that everyday corruptions make.

    pip install -e '.[attacks]'
    python benchmarks/attacks.py --data cifar10-jpeg --checkpoint resnet20.safetensors

Two runs of the application with every attack of `conf/attack` and every corruption of `conf/corruption`: scikit-learn's
digits, and CIFAR-10 as a folder of images under a ResNet-20 that is given. Each writes its files, the HTML report among
them, to a folder below `--runs`; a run whose `metrics.json` is there is not run again. The numbers go to
`benchmarks/results/attacks.json` and, as tables, into `docs/attacks.md`. Without `--data` the digits alone are run, and
the JSON keeps what it has of CIFAR-10.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configuration import composed
from pages import RESULTS, ROOT, filled, save, table

from gmm_torch.files import atomic_path
from trainers.evaluation.metrics_file import read_metrics
from trainers.report.tables.attacks import budget_table
from trainers.report.tables.corruptions import COLUMNS as CORRUPTION_COLUMNS
from trainers.report.tables.corruptions import corruption_table
from trainers.report.tables.results import caption
from trainers.report.tables.text import BASELINE, epsilon_text, number, percent
from trainers.run.job import quieten, run_task

PAGE = ROOT / "docs" / "attacks.md"
RESULT = RESULTS / "attacks.json"

GRADIENT = ("fgsm", "bim", "mi_fgsm", "pgd", "pgd_restarts", "pgd_l2", "apgd_ce", "apgd_t", "fab_t", "auto_attack")
SMALLEST = ("deepfool", "ddn", "cw_l2", "ead", "hop_skip_jump")
BLACK_BOX = ("square", "additive_uniform", "repeated_uniform", "additive_gaussian", "repeated_gaussian")
ATTACKS = (*GRADIENT, "pgd2", *SMALLEST, *BLACK_BOX, "pgd_sweep")

COMMON = ("corruption=[all]", "ood=[]", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false")
# strokes of 8 x 8 pixels bear more than photographs do
DIGITS_BUDGETS = {"linf": "0.15", "l2": "0.9"}
DIGITS_BUDGETS = "[0.01,0.02,0.04,0.08,0.15,0.3]"
L2 = ("pgd_l2", "additive_gaussian", "repeated_gaussian")

ATTACK_COLUMNS = (
    "attack",
    "norm",
    "epsilon",
    "attacked",
    "success",
    "Linf",
    "L2",
    "s",
    "AUROC",
    "softmax",
    "refused",
    "evaded",
)


def digits_overrides(images: int) -> list[str]:
    """A small network trained on a few labels, attacked within budgets that suit the images."""
    attacks = [name for name in ATTACKS if name != "pgd2"]
    budgets = [
        f"attack.{name}.epsilon={DIGITS_BUDGETS['l2' if name in L2 else 'linf']}" for name in (*GRADIENT, *BLACK_BOX)
    ]
    return [
        "experiment=demo",
        f"attack=[{','.join(attacks)}]",
        *budgets,
        f"attack.pgd_sweep.epsilons={DIGITS_BUDGETS}",
        f"limit.attack={images}",
        *COMMON,
        "title=Attacks and corruptions: digits",
    ]


def cifar10_overrides(data: str, checkpoint: str, images: int) -> list[str]:
    """The ResNet-20 that is given; its mixtures are fitted to a fifth of the images that it was trained on."""
    return [
        "experiment=cifar10_resnet20",
        f"data.root={data}",
        f"classifier.checkpoint={checkpoint}",
        "data.mixture_every=5",
        f"attack=[{','.join(ATTACKS)}]",
        f"limit.attack={images}",
        "attack.cw_l2.n_images=100",  # slow ones
        "attack.ead.n_images=100",
        "attack.hop_skip_jump.n_images=20",
        "limit.corruption=300",
        *COMMON,
        "title=Attacks and corruptions: CIFAR-10",
    ]


def run(name: str, overrides: list[str], runs: Path) -> dict[str, Any]:
    """The metrics of a run of the application, and what it was run with."""
    path = runs / name / "metrics.json"
    if not path.exists():
        (runs / name).mkdir(parents=True, exist_ok=True)
        cfg = composed(*overrides, f"paths.cache={runs / 'cache'}")
        quieten()
        run_task(cfg, runs / name)
    return read_metrics(path)


def kept(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What the tables are made of."""
    adversarial = {
        name.removeprefix("adversarial/"): source
        for name, source in metrics["sources"].items()
        if name.startswith("adversarial/")
    }
    names = ("n", "n_good", "auroc", "norm", "epsilon", "black_box", "n_attacked", "success_rate", "median_l1")
    names += ("median_l2", "median_linf", "seconds_per_image", "refusal_rate", "evasion_rate", "baselines")
    errors = {key: metrics["sources"]["errors"][key] for key in ("n", "n_good", "auroc", "baselines")}
    about = ("alpha", "classifier", "calibration", "splits", "n_fitted", "seed", "versions", "device")
    return {
        **{key: metrics[key] for key in about},
        "attacks": {name: {key: source[key] for key in names} for name, source in adversarial.items()},
        "sources": {"errors": errors},
        **{key: metrics[key] for key in ("attack_doubts", "sweeps", "corruptions")},
    }


def attack_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """One row an attack, the better AUROC in bold."""
    rows = []
    for name, found in result["attacks"].items():
        ours, softmax = (percent(value) for value in (found["auroc"], found["baselines"][BASELINE]["auroc"]))
        if found["auroc"] is not None and ours != softmax:
            better = found["auroc"] > found["baselines"][BASELINE]["auroc"]
            ours, softmax = (f"**{ours}**", softmax) if better else (ours, f"**{softmax}**")
        cells = [name.replace("_", " "), {"linf": "Linf", "l2": "L2", "l1": "L1"}[found["norm"]]]
        cells += [epsilon_text(found["epsilon"]), str(found["n_attacked"]), percent(found["success_rate"])]
        cells += [number(found["median_linf"], 2), number(found["median_l2"], 3)]
        cells += [number(found["seconds_per_image"], 2), ours, softmax]
        rows.append([*cells, percent(found["refusal_rate"]), percent(found["evasion_rate"])])
    return rows


def document(result: Mapping[str, Any]) -> str:
    """The tables of one run as Markdown."""
    about = "; ".join(
        [
            caption(result),
            f"mixtures fitted to {result['n_fitted']} images",
            ", ".join(f"{name} {result['versions'][name]}" for name in ("torch", "foolbox", "gmm_torch")),
        ]
    )
    doubts = [
        f"- {name.replace('_', ' ')}: {text}." for name, texts in result["attack_doubts"].items() for text in texts
    ]
    budgets, corruptions = budget_table(result), corruption_table(result)
    parts = [
        "**Attacks.** " + about + ".",
        table(ATTACK_COLUMNS, attack_rows(result)),
        "**Warnings of the guards**",
        "\n".join(doubts) if doubts else "None.",
        "**The same attack at growing budgets**",
        table(budgets.columns, budgets.rows),
        budgets.caption + ".",
        "**Corruptions**",
        table(corruptions.columns, corruptions.rows),
        corruptions.caption + ".",
        "**Corruptions by severity**",
        severities(result["corruptions"]),
    ]
    return "\n\n".join(parts)


def severities(corruptions: Mapping[str, Any]) -> str:
    """Means over the kinds of corruption, severity by severity."""
    head = ("severity", *CORRUPTION_COLUMNS[1:])
    rows = []
    for severity in range(6):
        kinds = corruptions["kinds"].values()
        points = [kind[severity - 1] for kind in kinds] if severity else [corruptions["clean"]]
        columns = [
            [point[key] for point in points] for key in ("error_rate", "coverage", "risk", "refusal_rate", "auroc")
        ]
        columns.append([point["baselines"][BASELINE]["auroc"] for point in points])
        known = [[value for value in column if value is not None] for column in columns]
        rows.append([str(severity), *(percent(sum(column) / len(column) if column else None) for column in known)])
    return table(head, rows)


def main() -> None:
    """Run what is asked for, write JSON and page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a folder with train/<class>/* and test/<class>/*: CIFAR-10")
    parser.add_argument("--checkpoint", help="weights of a ResNet-20 for it")
    parser.add_argument("--images", type=int, default=200, help="attacked by each attack, at most")
    parser.add_argument("--runs", type=Path, default=Path("runs/attacks"))
    options = parser.parse_args()
    if (options.data is None) != (options.checkpoint is None):
        parser.error("--data and --checkpoint go together")
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    runs = options.runs.resolve()
    if options.data:
        found = run("cifar10", cifar10_overrides(options.data, options.checkpoint, options.images), runs)
        result["cifar10"] = kept(found)
    result["digits"] = kept(run("digits", digits_overrides(options.images), runs))
    save(RESULT, result)
    page = PAGE.read_text(encoding="utf-8")
    for name in result:
        page = filled(page, name, document(result[name]))
    with atomic_path(PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
