"""Results of the library on fixed inputs, and the file in which earlier ones are kept.

`python -m tests.golden.record` writes the file anew: for a change of numbers that is meant, which the changelog names.
"""

import json
import math
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gmm_torch import FailureDetector, GaussianMixture
from gmm_torch.conformal.calibration import Calibration, Unlabelled
from gmm_torch.conformal.conditional import ConditionalCalibration
from gmm_torch.conformal.label_shift import LabelShiftCalibration
from gmm_torch.conformal.mondrian import MondrianCalibration
from gmm_torch.conformal.selection import adjusted_p_values, discoveries
from gmm_torch.conformal.selective import select_threshold
from gmm_torch.conformal.weighted import WeightedCalibration
from gmm_torch.scores import make_score
from tests.golden.networks import NETWORKS, as_input, splits, train

FILE = Path(__file__).with_name("golden.safetensors")
SCORES = (
    *("max_softmax", "log_likelihood", "class_conditional", "mahalanobis", "right_wrong_ratio", "labelled_combined"),
)
COVARIANCES: tuple[Any, ...] = ("full", "tied", "diag", "spherical", {"name": "low_rank", "rank": 2})
INITS = ("kmeans", "k-means++", "random", "random_from_data")
N_COMPONENTS = 4

Numbers = dict[str, Tensor]
Words = dict[str, Any]


def calibrated(calibration: Calibration, scores: Tensor, **given: Tensor) -> Calibration:
    """A calibration fitted to scores, with what else it is given."""
    return calibration.fit(scores, 0.1, **given)


def batches(name: str, split: str, *, labels: bool = True) -> list[Any]:
    """Batches of 100."""
    images, classes = splits()[split]
    x = as_input(name, images)
    return list(zip(x.split(100), classes.split(100), strict=True)) if labels else list(x.split(100))


def network(name: str, weights: Numbers) -> nn.Module:
    """A network with its weights among `weights`."""
    net = NETWORKS[name]()
    own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
    net.load_state_dict(own)
    return net.eval()


def verdicts(detector: FailureDetector, name: str) -> Numbers:
    """Scores, p-values and decisions on test inputs and odd ones."""
    images = torch.cat([splits()["test"][0], splits()["odd"][0]])
    found = detector(as_input(name, images))
    return {"score": found.score, "p_value": found.p_value, "accept": found.accept}


def of_network(name: str, net: nn.Module) -> tuple[Numbers, Words]:
    """The default detector with one view and with the default's, what it explains, and of rows other scores."""
    numbers, words = {}, {}
    for views in (1, None) if name in ("residual", "transformer") else (None,):
        detector = FailureDetector(net, N_COMPONENTS, views=views).fit(batches(name, "fit"))
        detector.calibrate(batches(name, "calibration")).eval()
        case = f"{name}.views_{views}"
        numbers |= {f"{case}.{key}": value for key, value in verdicts(detector, name).items()}
        words[f"{case}.layers"] = list(detector.extractor.layers)
        words[f"{case}.views"] = list(detector.extractor.views)
        parts = detector.score.breakdown(detector.extractor(as_input(name, splits()["odd"][0][:8])))
        numbers |= {f"{case}.part.{key}.p_value": value for key, value in parts.p_values.items()}
        numbers |= {f"{case}.part.{key}.influence": value for key, value in parts.influence.items()}
        report = detector.component_report(batches(name, "test"))
        for key, each in report.items():
            rates = [math.nan if row.error_rate is None else row.error_rate for row in each.components]
            numbers[f"{case}.report.{key}.rate"] = torch.tensor(rates)
    if name == "rows":
        for score in SCORES:
            detector = FailureDetector(net, score=make_score(score)).fit(batches(name, "fit"))
            detector.calibrate(batches(name, "calibration")).eval()
            numbers |= {f"score.{score}.{key}": value for key, value in verdicts(detector, name).items()}
        detector = FailureDetector(net, N_COMPONENTS, calibration=WeightedCalibration(2.0), alpha=0.2)
        calibration = batches(name, "calibration")
        detector.fit(batches(name, "fit")).adapt(
            batches(name, "test", labels=False), batches(name, "odd", labels=False)
        )
        detector.calibrate(calibration).eval()
        numbers |= {f"weighted_detector.{key}": value for key, value in verdicts(detector, name).items()}
    return numbers, words


def of_calibrations() -> tuple[Numbers, Words]:
    """P-values of fixed scores by each calibration, discoveries among them, and thresholds for a selective risk."""
    generator = torch.Generator().manual_seed(0)
    scores, new = torch.randn(600, generator=generator), 1.5 * torch.randn(80, generator=generator) - 0.5
    classes, new_classes = (torch.randint(3, (n,), generator=generator) for n in (600, 80))
    plain = calibrated(Calibration(), scores)
    grouped = calibrated(MondrianCalibration(3), scores, predictions=classes)
    conditional = calibrated(ConditionalCalibration(), scores)
    numbers = {
        "marginal.p_value": plain.p_value(new),
        "marginal.threshold": plain.threshold(0.1),
        "mondrian.p_value": grouped.p_value(new, new_classes),
        "mondrian.threshold": grouped.threshold(0.1),
        "conditional.p_value": conditional.p_value(new),
        "conditional.threshold": conditional.threshold(0.1),
    }
    p_values = plain.p_value(new)
    numbers["adjusted.p_value"] = adjusted_p_values(p_values)
    numbers["discoveries.accept"] = discoveries(p_values, 0.2)
    numbers["storey.accept"] = discoveries(p_values, 0.2, storey=True)
    errors = torch.rand(600, generator=generator) < torch.sigmoid(-2 - scores)
    rule = select_threshold(scores, errors, 0.2, delta=0.1)
    numbers["selective.threshold"] = torch.tensor(rule.threshold)

    reference, deployment = torch.randn(400, 2, generator=generator), torch.randn(400, 2, generator=generator) + 0.4
    statistics, later = torch.randn(600, 2, generator=generator), torch.randn(80, 2, generator=generator) + 0.4
    labels, predicted = (torch.randint(3, (400,), generator=generator) for _ in range(2))
    weighted = WeightedCalibration().adapt(Unlabelled(reference, predicted), Unlabelled(deployment, predicted))
    calibrated(weighted, statistics.sum(1), log_weight=weighted.log_weights(Unlabelled(statistics, classes)))
    numbers["weighted.p_value"] = weighted.p_value(
        later.sum(1), log_weight=weighted.log_weights(Unlabelled(later, new_classes))
    )
    right = torch.where(torch.rand(400, generator=generator) < 0.9, labels, predicted)
    there = right[torch.randint(400, (400,), generator=generator)].clamp(min=1)
    shift = LabelShiftCalibration(3).adapt(Unlabelled(reference, right), Unlabelled(deployment, there), labels=labels)
    calibrated(shift, scores, log_weight=shift.log_weights(Unlabelled(statistics, classes), classes))
    numbers["label_shift.p_value"] = shift.p_value(new, log_weight=shift.log_weights(Unlabelled(later, new_classes)))
    return numbers, {}


def points(dtype: torch.dtype = torch.float32) -> Tensor:
    """(600, 3): three clusters, of which one is narrow."""
    generator = torch.Generator().manual_seed(1)
    centre, width = torch.tensor([[0.0, 4, 1], [5, -2, 3], [-4, 0, 100]]), torch.tensor([1.0, 0.2, 2.0])
    owner = torch.randint(3, (600,), generator=generator)
    return (centre[owner] + width[owner, None] * torch.randn(600, 3, generator=generator)).to(dtype)


def parameters(mixture: GaussianMixture) -> Numbers:
    """Weights, means and covariances, and the objective where it is known."""
    found = {"weights": mixture.weights, "means": mixture.means, "covariances": mixture.covariances}
    if mixture.lower_bound is not None:
        found["lower_bound"] = torch.tensor(mixture.lower_bound, dtype=torch.float64)
    return {name: value.detach().clone() for name, value in found.items()}


def of_mixtures() -> tuple[Numbers, Words]:
    """Parameters and lower bounds of fits of each kind."""
    x, numbers = points(), {}
    weight = torch.rand(600, generator=torch.Generator().manual_seed(2))
    holes = torch.where(torch.rand(600, 3, generator=torch.Generator().manual_seed(3)) < 0.15, torch.nan, x)
    holes[:, 0] = x[:, 0]

    def keep(name: str, mixture: GaussianMixture) -> None:
        numbers.update({f"mixture.{name}.{key}": value for key, value in parameters(mixture).items()})

    for kind in COVARIANCES:
        name = kind if isinstance(kind, str) else kind["name"]
        keep(f"{name}.memory", GaussianMixture(3, 3, kind).fit(x, seed=0))
        keep(f"{name}.streamed", GaussianMixture(3, 3, kind).fit(list(x.split(150)), seed=0))
        keep(f"{name}.weighted", GaussianMixture(3, 3, kind).fit(x, sample_weight=weight, seed=0))
        keep(f"{name}.holes", GaussianMixture(3, 3, kind).fit(holes, missing=True, seed=0))
        if name != "low_rank":
            keep(f"{name}.wide", GaussianMixture(3, 3, kind).double().fit(x.double(), seed=0, n_init=2))
            online = GaussianMixture(3, 3, kind)
            for batch in x.split(100):
                online.partial_fit(batch)
            keep(f"{name}.online", online)
        mixture = GaussianMixture(3, 3, kind).fit(x, seed=0)
        numbers[f"mixture.{name}.log_prob"] = mixture.log_prob(x[:50])
        numbers[f"mixture.{name}.posterior"] = mixture.predict_proba(x[:50])
    for init in INITS:
        keep(f"init.{init}", GaussianMixture(3, 3).fit(x, init_params=init, seed=1, max_iter=5, tol=0.0))
    keep("shrunk", GaussianMixture(3, 3).fit(x, shrinkage="oas", seed=0))
    keep("prior", GaussianMixture(5, 3).fit(x, prior_count=2.0, weight_concentration=1.5, seed=0))
    conditional = GaussianMixture(3, 3).fit(x, seed=0).condition([0], torch.tensor([1.0]))
    keep("conditional", conditional)
    leaf = x.double().requires_grad_()
    fitted = GaussianMixture(2, 3).double().fit(leaf.detach(), seed=0).implicit_fit(leaf)
    fitted.means.square().sum().backward()
    numbers["mixture.implicit.gradient"] = leaf.grad
    return numbers, {}


def recorded(weights: Numbers) -> tuple[Numbers, Words]:
    """All results of the present code, by name."""
    numbers, words = {}, {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [of_calibrations(), of_mixtures(), *(of_network(name, network(name, weights)) for name in NETWORKS)]
    for tensors, facts in found:
        numbers |= {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        words |= facts
    return numbers, words


def read() -> tuple[Numbers, Numbers, Words]:
    """Weights of the networks, kept results, and kept words."""
    with safe_open(FILE, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        words = json.loads(file.metadata()["words"])
    weights = {name.removeprefix("net."): value for name, value in tensors.items() if name.startswith("net.")}
    return weights, {name: value for name, value in tensors.items() if not name.startswith("net.")}, words


def write() -> None:
    """Train the networks and keep all results."""
    weights = {f"{name}.{key}": value for name in NETWORKS for key, value in train(name).state_dict().items()}
    numbers, words = recorded(weights)
    save_file({f"net.{name}": value for name, value in weights.items()} | numbers, FILE, {"words": json.dumps(words)})


if __name__ == "__main__":
    write()
