"""Writes the demo's table into the README: run `gmm-torch experiment=demo` first, or `make readme`, which does both."""

import json

from pages import ROOT, fill

from trainers.report.tables.results import results_table

metrics = json.loads((ROOT / "runs" / "demo" / "metrics.json").read_text())
fill(ROOT / "README.md", "demo", results_table(metrics).markdown().strip())
print("README.md: table written")
