"""Time to scikit-learn's converged log-likelihood, on features of a real classifier, from the same start.

    python benchmarks/em_converged.py features.npy            # (N, D) float32
    python benchmarks/em_converged.py --images folder --checkpoint resnet20.safetensors

scikit-learn runs to its own tolerance (1e-3 by default) from given means; then gmm_torch from the same start to the
first iteration whose log-likelihood is that of scikit-learn or better. Medians over repeats that take turns, some five
minutes a repeat; repeats that disagree (`timings.py`) are an error. Writes `benchmarks/results/em_converged.json` and
the table of docs/speed.md; `--page` only writes the table again.
"""

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from configuration import composed
from hydra.utils import instantiate
from pages import RESULTS, ROOT, fill, save, table, versions_text
from problems import Problem, clock, clock_text, facts
from sklearn.mixture import GaussianMixture as Reference
from timings import NOTHING, REPEATS, median_seconds
from torch import Tensor

from gmm_torch import GaussianMixture
from gmm_torch.features.extractor import FeatureExtractor
from gmm_torch.mixture.options import EMOptions
from trainers.classifiers.build import build_classifier

K = 50
RESULT = RESULTS / "em_converged.json"


def features_of(images: Path, checkpoint: Path) -> Tensor:
    """Penultimate features of the CIFAR ResNet-20 on all training images of a folder."""
    cfg = composed("experiment=cifar10_resnet20", f"data.root={images}", f"classifier.checkpoint={checkpoint}")
    data = instantiate(cfg.data)
    data.setup()
    classifier = build_classifier(cfg.classifier, data.num_classes, data.image_shape)
    extractor = FeatureExtractor(classifier, "penultimate")
    with torch.no_grad():
        parts = [next(iter(extractor(x[0]).layers.values())) for x in data.mixture_dataloader()]
    return torch.cat(parts).flatten(1).float()


def ours(x: Tensor, problem: Problem, start: dict[str, Tensor], target: float, max_iter: int) -> tuple[float, int]:
    """Seconds and iterations until the mean log-likelihood is `target`."""
    mixture = GaussianMixture(problem.k, problem.d, problem.covariance_type)
    begin = clock()
    em = mixture.start_em(EMOptions(max_iter=max_iter, tol=0.0, reg_mode="absolute", **start))
    while not em.done:
        em.advance(em.collect([(x, None)]))
        if em.n_iter > 0 and float(em.lower_bounds()[-1]) >= target:
            return clock() - begin, em.n_iter
    raise SystemExit(f"expected to reach {target:.6f} in {max_iter} iterations; got {float(em.lower_bounds()[-1]):.6f}")


def main() -> None:
    """Measure, write the JSON, fill the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", nargs="?", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--page", action="store_true", help="only fill the page")
    arguments = parser.parse_args()
    if arguments.page:
        fill(ROOT / "docs" / "speed.md", "em_converged", markdown(json.loads(RESULT.read_text())))
        return
    if arguments.features is not None:
        x = torch.from_numpy(np.load(arguments.features)).float()
    else:
        x = features_of(arguments.images, arguments.checkpoint)
    warnings.simplefilter("ignore")
    rows: list[dict[str, Any]] = []
    for kind in ("full", "diag"):
        problem = Problem(len(x), x.shape[1], K, kind)
        start = problem.start(x)
        seconds: dict[str, list[float]] = {"float64": [], "float32": [], "ours": []}
        for _ in range(arguments.repeats):
            for dtype in (np.float64, np.float32):
                given = {name: value.numpy().astype(dtype) for name, value in start.items()}
                reference = Reference(K, covariance_type=kind, max_iter=1000, init_params="random_from_data", **given)
                points = x.numpy().astype(dtype)
                begin = clock()
                reference.fit(points)
                seconds[dtype.__name__].append(clock() - begin)
                if dtype is np.float64:
                    target, n_iter = float(reference.lower_bound_), reference.n_iter_
            taken, n_ours = ours(x, problem, start, target, 2 * n_iter)
            seconds["ours"].append(taken)
        rows.append({"type": kind, "n_iter": n_iter, "n_iter_ours": n_ours, "target": target, "all_seconds": seconds})
        print(rows[-1], flush=True)
    result = {
        "facts": facts(torch.device("cpu"), "scikit-learn"),
        "n": len(x),
        "d": x.shape[1],
        "k": K,
        "rows": rows,
    }
    text = markdown(result)
    save(RESULT, result)
    print(text)
    fill(ROOT / "docs" / "speed.md", "em_converged", text)


def markdown(result: dict[str, Any]) -> str:
    """The table, and what it was measured on.

    Raises:
        NoisyTimingError: repeats that may not be stated.
    """
    if not result["rows"]:
        return NOTHING
    head = [
        "type",
        "scikit-learn float64, s",
        "float32, s",
        "gmm_torch, s",
        "iterations",
        "ratio to float64",
        "to float32",
    ]
    lines = []
    for row in result["rows"]:
        seconds = {name: median_seconds(f"{row['type']}, {name}", each) for name, each in row["all_seconds"].items()}
        lines.append(
            [
                row["type"],
                *(f"{seconds[name]:.2f}" for name in ("float64", "float32", "ours")),
                f"{row['n_iter']} / {row['n_iter_ours']}",
                *(f"{seconds[name] / seconds['ours']:.1f}" for name in ("float64", "float32")),
            ]
        )
    about = result["facts"]
    versions = versions_text(about["versions"])
    repeats = ", ".join(str(len(row["all_seconds"]["ours"])) for row in result["rows"])
    return (
        table(head, lines)
        + f"\n\n{result['n']:,} x {result['d']}, K = {result['k']}; repeats: {repeats}. "
        + f"{about['device']}, {clock_text(about['threads'])}; {versions}."
    )


if __name__ == "__main__":
    main()
