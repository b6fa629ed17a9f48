"""How the default score of several views was chosen, on the failures of `development.py`.

    pip install -e '.[benchmarks]'
    python benchmarks/views_study.py --checkpoint resnet20.safetensors --data cifar10-jpeg --document docs/detector.md

A candidate is a way to treat the views in `moment_likelihood`, jointly as one long vector or averaged, and a weight for
it and for `logit_likelihood`, that of `agreement` being 1. The rule: of the candidates whose mean over the columns of
both networks is within `TOLERANCE` of the highest, the one that finds errors best, in the mean of both networks. The
tables also say how far a candidate is below the best single part, over errors and other sets; attacks do not enter that
loss, since no single part is good at them.
"""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from detection import ERRORS, VIEWS, Ours, Split, Workbench
from development import ATTACKS, COLUMNS, NETWORKS, SETS, groups
from pages import RESULTS, fill, save, table
from problems import facts
from torch import Tensor

from gmm_torch.detection.feature_mixture import Block, each_view
from gmm_torch.detection.outputs import Outputs
from gmm_torch.detection.projection import Projection
from gmm_torch.detection.scores import make_score
from gmm_torch.detection.scores.consensus import WEIGHTS, Consensus
from gmm_torch.detection.scores.moment_likelihood import MomentLikelihood
from gmm_torch.detection.transforms import unit
from gmm_torch.functional.combination import COMBINATIONS
from gmm_torch.mixture import GaussianMixture
from trainers.main import quieten

RESULT = RESULTS / "views_study.json"
TOLERANCE = 0.25  # points of AUROC
WEIGHT_GRID = (0.5, 0.25, 0.125)
AGREEMENT, MOMENTS, LOGITS = WEIGHTS
FRACTIONS = {1.0: "1", 0.5: "1/2", 0.25: "1/4", 0.125: "1/8"}

Areas = dict[str, float]


class JointMoments(MomentLikelihood):
    """The moments of image and mirror as one vector of twice the length: the alternative to their mean."""

    def build(self, widths: dict[str, int], n_views: int, n_classes: int) -> Self:
        """See `Score`."""
        super().build(widths, n_views, n_classes)
        self.blocks = [Block(layer, each_view(len(groups[0])), width) for layer, groups, width in self.blocks]
        self.projection = Projection(sum(len(groups) * width for _, groups, width in self.blocks))
        self.mixture = GaussianMixture(self.n_components, self.projection.width, self.covariance_type)
        return self

    def parts(self, outputs: Outputs) -> Tensor:
        """(N, V sum D)."""
        chosen = (outputs.features[layer][:, : self.n_views] for layer, *_ in self.blocks)
        return torch.cat([unit(values.unflatten(-1, (2, -1))).flatten(1) for values in chosen], dim=1)


MOMENTS_OF = {"jointly": JointMoments, "averaged": MomentLikelihood}


def log_p_values(ours: Ours, way: str) -> dict[str, Tensor]:
    """Logarithms of the p-values of the parts, in the order of `WEIGHTS`, for everything that is judged."""
    score = make_score("consensus", weights=dict.fromkeys(WEIGHTS, 1.0))
    assert isinstance(score, Consensus)
    score.parts[MOMENTS] = MOMENTS_OF[way](n_components=score.n_components, covariance_type=score.covariance_type)
    detector = ours.detector(score, VIEWS)
    return ours.everything(detector, score.log_p_values)


def measured(ours: Ours) -> dict[str, Any]:
    """AUROC of every column, by part and by candidate."""
    parts: dict[str, Areas] = {}
    candidates = []
    for way in MOMENTS_OF:
        log_p = log_p_values(ours, way)
        for name in WEIGHTS:
            alone = ours.combined(log_p, list(WEIGHTS), COMBINATIONS["fisher"], {name: 1.0})
            parts[name if name != MOMENTS else f"{name}, {way}"] = alone
        for moments, logits in itertools.product(WEIGHT_GRID, WEIGHT_GRID):
            weights = {AGREEMENT: 1.0, MOMENTS: moments, LOGITS: logits}
            candidates.append(
                {
                    "moments": way,
                    "weights": weights,
                    "auroc": ours.combined(log_p, list(WEIGHTS), COMBINATIONS["root_mean"], weights),
                }
            )
    return {"parts": parts, "candidates": candidates}


def mean(found: Sequence[Areas]) -> Areas:
    """Column by column."""
    return {column: sum(each[column] for each in found) / len(found) for column in found[0]}


def studied(bench: Workbench, seeds: Sequence[int]) -> dict[str, Any]:
    """What `measured` finds, as means over the seeds, and what it rests on."""
    study, _ = bench.study(ATTACKS)
    splits = [Split.draw(seed, len(study.test_labels), 2000, 3000) for seed in seeds]
    each = [measured(Ours(study, split, bench.cache)) for split in splits]
    n_errors = sum(int((~study.right[split.test]).sum()) for split in splits)
    return {
        "accuracy": float(study.right.double().mean()),
        "n": {ERRORS: round(n_errors / len(splits))} | {k: len(v.source) for k, v in study.failures.items()},
        "parts": {name: mean([one["parts"][name] for one in each]) for name in each[0]["parts"]},
        "candidates": [
            {**first, "auroc": mean([one["candidates"][i]["auroc"] for one in each])}
            for i, first in enumerate(each[0]["candidates"])
        ],
    }


def loss(candidate: Areas, parts: Mapping[str, Areas]) -> float:
    """The largest over errors and other sets of how far a candidate is below the best single part."""
    return max(max(part[c] for part in parts.values()) - candidate[c] for c in (ERRORS, *SETS))


def choice(networks: Mapping[str, Any]) -> int:
    """Which candidate the rule takes."""
    n = len(next(iter(networks.values()))["candidates"])
    of_both = [groups(mean([study["candidates"][i]["auroc"] for study in networks.values()])) for i in range(n)]
    highest = max(found["mean"] for found in of_both)
    good = [i for i in range(n) if of_both[i]["mean"] >= highest - TOLERANCE]
    return max(good, key=lambda i: of_both[i][ERRORS])


def document(result: Mapping[str, Any]) -> str:
    """The tables, in Markdown."""
    chosen = choice(result["networks"])
    text = []
    for title, study in result["networks"].items():
        rows = []
        for name, part in study["parts"].items():
            score, *way = name.split(", ")
            rows.append([", ".join([f"`{score}`", *way]), "", "", part])
        for i, each in enumerate(study["candidates"]):
            mark = "**" if i == chosen else ""
            weights = [FRACTIONS[each["weights"][part]] for part in (MOMENTS, LOGITS)]
            rows.append([f"{mark}{each['moments']}{mark}", *weights, each["auroc"]])
        head = ["moments", "their weight", "that of logits", *groups(dict.fromkeys(COLUMNS, 0.0)), "loss"]
        cells = [
            [*row[:3], *(f"{value:.1f}" for value in groups(row[3]).values()), f"{loss(row[3], study['parts']):.1f}"]
            for row in rows
        ]
        counts = ", ".join(f"{column} {study['n'][column]}" for column in COLUMNS)
        text.append(f"**{title}** (accuracy {100 * study['accuracy']:.1f} %; failures: {counts})")
        text.append(table(head, cells))
    machine, versions = result["facts"], result["facts"]["versions"]
    where = f"{machine['device']}, {machine['threads']} thread(s); python {machine['python']}, "
    where += ", ".join(f"{name} {number}" for name, number in versions.items())
    seeds = ", ".join(map(str, result["seeds"]))
    about = f"AUROC in %, mean over seeds {seeds} (calibration split and start of EM). {where}."
    return "\n\n".join([*text, about])


def main() -> None:
    """Measure both networks; see the first lines of the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classifier", default="resnet20", help="a config of conf/classifier")
    parser.add_argument("--checkpoint", required=True, help="the classifier's weights")
    parser.add_argument("--data", required=True, help="a folder with train/<class>/*")
    parser.add_argument("--data-root", default="data", help="the folder of datasets, with Fashion-MNIST")
    parser.add_argument("--held-out-every", type=int, default=10, help="see detection.py")
    parser.add_argument("--n-fit", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="of the classifier")
    parser.add_argument("--cache", default="runs/development")
    parser.add_argument("--document", help="a Markdown file whose marked lines are replaced by the tables")
    options = parser.parse_args()
    quieten()
    networks = {title: studied(make(options), options.seeds) for title, make in NETWORKS.items()}
    packages = ("torchvision", "foolbox", "scikit-learn")
    result = {
        "facts": facts(torch.device(options.device), *packages),
        "seeds": options.seeds,
        "networks": networks,
    }
    save(RESULT, result)
    text = document(result)
    print(text)
    if options.document:
        fill(Path(options.document), "views", text)


if __name__ == "__main__":
    main()
