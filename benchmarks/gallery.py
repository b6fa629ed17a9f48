"""Takes pictures out of the demo's report into docs/gallery: run `gmm-torch experiment=demo` first, or `make gallery`,
which does both."""

import argparse
import re
from pathlib import Path
from typing import NamedTuple

from pages import ROOT, fill

from gmm_torch.files import atomic_path
from trainers.report.figures.style import CSS_NAMES

# Letters of the panel's key in the report, its heading -> what to see in it.
SHOWN = {
    ("scores", "Scores of each kind of image"): "Left of the dashed line is refused.",
    ("p", "all clean test images"): "The check of the whole: p-values of clean images should be flat, up to chance.",
    ("p", "pgd attack"): "P-values of attacked images pile up on the left.",
    ("roc", "pgd attack"): "Attacked images refused against good images refused.",
    ("risk", "Risk against coverage"): "Refuse the least typical first: what remains is right more often.",
    ("error", "Error rate by p-value"): "Predictions with small p-values are wrong more often.",
    ("classes", "False alarms by predicted class"): "Who bears them.",
    ("components", "Features by component"): "Clean images; no label was used.",
    ("plane", "pgd attack"): "Attacked images among clean ones, in two directions of many.",
    ("em", "Fit of the mixture"): "It flattens; it falls at first where covariances are shrunk.",
}
PALETTE = {name: colour for colour, name in CSS_NAMES.items()}


class Figure(NamedTuple):
    """A figure of a report's page, to stand alone."""

    description: str
    svg: str


def figures(report: str) -> dict[tuple[str, str], Figure]:
    """(Letters of its key, heading) -> every figure on a report's page."""
    found = {}
    for head, text, body in re.findall(
        r'(<svg viewBox="[^"]*") role="img" aria-label="(.*?)">(.*?</svg>)', report, re.DOTALL
    ):
        letters = re.search(r'id="([a-z]+)\d*-', body)
        if letters is not None:
            found[letters[1], text.partition(". ")[0].rstrip(".")] = Figure(text, _alone(head, body))
    return found


def _alone(head: str, body: str) -> str:
    """A figure that needs no page around it: with colours instead of the page's variables."""
    body = re.sub(r"var\(--([a-z]+)\)", lambda name: PALETTE[name[1]], body)
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return re.sub(r"[ \t]+$", "", f'{head} {spaces} font-family="sans-serif">{body}\n', flags=re.MULTILINE)


def main() -> None:
    """Write the pictures, and the page that shows them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path, default=ROOT / "runs" / "demo" / "report.html")
    found = figures(parser.parse_args().report.read_text(encoding="utf-8"))
    missing = SHOWN.keys() - found.keys()
    if missing:
        raise SystemExit(f"report: expected the figures {sorted(missing)} as well; got {sorted(found)}")
    lines = ['<div class="gallery">']
    for (letters, heading), caption in SHOWN.items():
        figure = found[letters, heading]
        name = "_".join([letters, *heading.lower().split()]) + ".svg"
        with atomic_path(ROOT / "docs" / "gallery" / name) as temporary:
            temporary.write_text(figure.svg, encoding="utf-8")
        text = f"<figcaption><b>{heading}.</b> {caption}</figcaption>"
        lines.append(f'<figure><img src="gallery/{name}" alt="{figure.description}">{text}</figure>')
    fill(ROOT / "docs" / "gallery.md", "gallery", "\n".join([*lines, "</div>"]))
    print(f"docs/gallery: {len(SHOWN)} pictures")


if __name__ == "__main__":
    main()
