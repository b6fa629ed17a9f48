"""The table of plain against weighted false alarms of a run on real images, for docs/guarantees.md.

    gmm-torch experiment=cifar10_resnet20 data.root=cifar10 classifier.checkpoint=resnet20.safetensors attack=[] \
        'corruption=[brightness,gaussian_noise]' 'shift=[corruptions,preprocessing]' hydra.run.dir=runs/shift
    python benchmarks/shift_of_run.py runs/shift

Keeps what the run found in `benchmarks/results/shift_of_run.json`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from pages import RESULTS, ROOT, fill, save, table, versions_text

from trainers.report.tables.shifts import where
from trainers.report.tables.text import MISSING, percent, percent_range

KEPT = ("title", "seed", "device", "versions", "classifier", "calibration", "splits", "shifts")


def markdown(run: dict[str, Any]) -> str:
    """The table, and what it was measured on."""
    rows = []
    for row in run["shifts"]["rows"]:
        rates = [
            f"{percent(each['false_alarm_rate'])} ({percent_range(each['false_alarm_interval'])})"
            if "false_alarm_rate" in each
            else MISSING
            for each in (row["plain"], row["weighted"])
        ]
        size = row["weighted"].get("effective_size")
        rows.append([where(row), percent(row["error_rate"]), *rates, MISSING if size is None else f"{size:.0f}"])
    head = ["images from", "wrong", "plain", "weighted", "effective sample size"]
    n = ", ".join(sorted({f"{row['n']:,}" for row in run["shifts"]["rows"]}))
    versions = versions_text(run["versions"])
    return (
        f"{table(head, rows)}\n\n{run['title']}; false alarms in % (95 % interval) at alpha = "
        f"{run['shifts']['alpha']:g}, of {n} images a row, as many others of which taught the weights, without labels; "
        f"accuracy {percent(run['classifier']['test_accuracy'])} %; {run['calibration']['n']:,} calibration images; "
        f"{MISSING}: nothing can be promised, and the run says so. Seed {run['seed']}, {run['device']}, {versions}."
    )


def main() -> None:
    """Keep the numbers of a run, fill the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of the run")
    metrics = json.loads((parser.parse_args().run / "metrics.json").read_text(encoding="utf-8"))
    found = {name: metrics[name] for name in KEPT if name in metrics}
    save(RESULTS / "shift_of_run.json", found)
    fill(ROOT / "docs" / "guarantees.md", "shift_of_run", markdown(found))


if __name__ == "__main__":
    main()
