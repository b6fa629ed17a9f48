"""What the other parts of the default cost in finding wrong predictions, as expected without labels and as it is.

    pip install -e '.[benchmarks]'
    python benchmarks/suited_weights.py --networks resnet20,vit_fashion --cache runs/architectures --document

Networks, data and attacks are those of `architectures.py`, with its options; attacked images come from its cache. For
every scale of the weights of all parts but `mean_log_probability`: the cost that is expected on the reference inputs
if the classifier's probabilities are true, and the areas on the test inputs, means over the seeds.
"""

import sys
from collections.abc import Mapping
from statistics import mean
from typing import Any

import torch
from architectures import ERRORS, Judged, Row, areas, batches, parse
from architectures_data import Folders
from architectures_page import label
from pages import RESULTS, ROOT, fill, save, table
from torch import Tensor

from gmm_torch.detector import FailureDetector, Features
from gmm_torch.scores.combination import expected_auroc
from gmm_torch.scores.combined import MAX_COST, SCALES, Combined

PAGE = ROOT / "docs" / "detector.md"
STEPS = SCALES[::2]


def expected_cost(score: Combined, statistics: Tensor) -> float:
    """Of the weights as they are scaled now, in points, among inputs with these statistics."""
    probability = score.probability_right(statistics)
    alone = score.part_scores(statistics)[:, list(score.weights).index("mean_log_probability")]
    return 100 * float(expected_auroc(alone, probability) - expected_auroc(score.combine(statistics), probability))


@torch.no_grad()
def by_scale(network: Judged, n_views: int) -> dict[str, Any]:
    """Scale -> expected cost, errors over the softmax, mean and minimum of the other columns; and what was chosen."""
    study, _ = network.study
    looked = FailureDetector(network.classifier, views=n_views)
    seen: Mapping[str, Features] = {name: looked.features(batches(x)) for name, x in network.sets().items()}
    rows = {scale: Row("scale", str(scale)) for scale in STEPS}
    softmax, costs, chosen = Row("softmax", ""), {scale: [] for scale in STEPS}, []
    certainty = {name: outputs.own_logits.softmax(-1).amax(-1) for name, outputs in seen.items() if name != "fit"}
    for split in network.splits:
        detector = FailureDetector(
            network.classifier, views=n_views, layers=looked.extractor.layers, seed=split.seed
        ).fit(seen["fit"])
        calibration = seen[""].rows(split.calibration)
        detector.calibrate(calibration)
        score = detector.score
        assert isinstance(score, Combined)
        chosen.append(float(score.log_scale.exp()))
        statistics = {name: score.statistics(outputs) for name, outputs in seen.items() if name != "fit"}
        reference = score.statistics(calibration)
        softmax.add(areas(certainty, study, split))
        for scale in STEPS:
            score.log_scale = torch.tensor(scale).log()
            costs[scale].append(expected_cost(score, reference))
            rows[scale].add(areas({name: score.combine(each) for name, each in statistics.items()}, study, split))
    columns = list(study.failures)
    of_softmax = softmax.summary([ERRORS])[ERRORS][0]
    found = []
    for scale, row in rows.items():
        summary = row.summary([ERRORS, *columns])
        others = [summary[column][0] for column in columns]
        errors = summary[ERRORS][0] - of_softmax
        found.append({"scale": scale, "expected": mean(costs[scale]), "errors": errors, "mean": mean(others)})
        found[-1]["min"] = min(others)
    return {"chosen": chosen, "scales": found, "softmax": of_softmax}


def document(results: Mapping[str, Any]) -> str:
    """A table a network and number of views, in Markdown."""
    parts = []
    for result in results.values():
        for views, found in result["views"].items():
            scales = ", ".join(f"{scale:.2f}" for scale in found["chosen"])
            head = ["scale", "expected cost", "errors, over the softmax's", "mean of the other columns", "minimum"]
            lines = [
                [f"{row['scale']:.3g}", f"{row['expected']:.1f}", f"{row['errors']:+.1f}", *_areas(row)]
                for row in found["scales"]
            ]
            title = f"**{label('', result)}, {'three views' if views == '3' else 'one pass'}** (chosen: {scales})"
            parts.append(f"{title}\n\n{table(head, lines)}")
    note = f"AUROC in points; a scale is chosen at an expected cost of {100 * MAX_COST:g}."
    return "\n\n".join([note, *parts])


def _areas(row: Mapping[str, float]) -> list[str]:
    return [f"{row[end]:.1f}" for end in ("mean", "min")]


def main() -> None:
    """Measure, save, and fill the page."""
    options = parse(["evaluate", *sys.argv[1:]])
    torch.set_num_threads(options.threads)
    folders = Folders(**{name: getattr(options, name) for name in Folders._fields})
    results = {}
    for name in options.networks:
        network = Judged(name, folders, options.seeds)
        views = {str(n): by_scale(network, n) for n in sorted({len(network.views), 1}, reverse=True)}
        results[name] = {"kind": network.recipe.kind, "data": network.recipe.data, "views": views}
        results[name] |= {"seeds": options.seeds, "accuracy": network.accuracy}
    save(RESULTS / "suited_weights.json", results)
    if options.document:
        fill(PAGE, "suited_weights", document(results))


if __name__ == "__main__":
    main()
