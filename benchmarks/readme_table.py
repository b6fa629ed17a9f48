"""Writes the demo's table into the README: run `gmm-torch experiment=demo` first, or `make readme`, which does both."""

import json
import re
from pathlib import Path

from trainers.tables import metrics_markdown

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- demo table: `make readme` writes it -->", "<!-- end of demo table -->"

metrics = json.loads((ROOT / "runs" / "demo" / "metrics.json").read_text())
readme = (ROOT / "README.md").read_text()
pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
if not pattern.search(readme):
    raise SystemExit(f"README.md: expected the line {BEGIN!r}")
table = metrics_markdown(metrics).strip()
(ROOT / "README.md").write_text(pattern.sub(lambda _: f"{BEGIN}\n\n{table}\n\n{END}", readme))
print("README.md: table written")
