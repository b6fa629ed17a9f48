"""Area under the ROC curve of the failure detector, its ablations and its peers, on three sources of failure.

    pip install -e '.[benchmarks]'
    python benchmarks/detection.py --checkpoint resnet20.safetensors --data cifar10-jpeg \
        --ood tiny-imagenet=tiny-imagenet-32 fashion=fashion_mnist mnist=mnist uniform=uniform_noise \
        --document docs/detector.md

The images are a folder with `train/` and `test/`, one folder a class in each. Everything is fitted on images that the
classifier was trained on, calibrated on a part of the test images and judged on the rest; a seed decides which part,
and where EM starts. Attacked images, the classifier's outputs and fitted mixtures are kept in the folder `--cache`, so
that a run that was interrupted goes on where it stopped; remove the folder after changing the library.

Columns: `errors` has the wrongly classified test images against the right ones; an attack's column the attacked images
of the test part that changed class, against the right ones; an out-of-distribution set's its images against all.
`held out`, which is in no mean, has images of the training split that the classifier was not trained on, against all.
They are no failures, so 50 is right: a detector that told them from test images would know where an image was stored,
not whether it can be trusted.
"""

import argparse
import dataclasses
import hashlib
import inspect
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_ood.api as peer_api
import pytorch_ood.detector as peer_detectors
import torch
from configuration import composed
from detection_peers import MIXED, JointLayers, MixtureOfScores, together
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pages import fill, save, versions_text
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from gmm_torch.detector import FailureDetector, Features
from gmm_torch.detector.weights import fingerprint
from gmm_torch.features.extractor import FeatureExtractor
from gmm_torch.features.layers import DEPTHS, FINDERS, INPUT, PENULTIMATE
from gmm_torch.files import atomic_path
from gmm_torch.mixture import GaussianMixture
from gmm_torch.scores import SCORES, Score, make_score
from gmm_torch.scores.combination import root_mean
from gmm_torch.scores.combined import Combined, default_parts
from gmm_torch.scores.feature_mixture import fit_mixture
from trainers.classifiers.build import build_classifier
from trainers.data.folder import image_folder
from trainers.data.idx import find_idx_files, published_in
from trainers.data.images import LabelledImages, content_digest
from trainers.data.ood import build_ood
from trainers.main import CONF

VIEWS = SCORES["combined"].views
ERRORS = "errors"
HELD_OUT = "held out"  # training images that the classifier was not trained on: no failures, so their area must be 50

# name -> a config of `conf/attack` and what is changed in it. All test images that the classifier gets right are
# attacked, but for the two slow attacks. `pgd` and `pgd2` take the step that foolbox takes by default, a thirtieth of
# the budget; the configs' own is a tenth.
FOOLBOX_STEP = {"rel_stepsize": 0.01 / 0.3}
Attacks = Mapping[str, tuple[str, dict[str, Any]]]
ATTACKS: Attacks = {
    "fgsm": ("fgsm", {"n_images": None}),
    "bim": ("bim", {"n_images": None}),
    "pgd": ("pgd", {"n_images": None, "method": FOOLBOX_STEP}),
    "pgd2": ("pgd2", {"n_images": None, "method": FOOLBOX_STEP}),
    "deepfool": ("deepfool", {"n_images": 1500}),
    "cw_l2": ("cw_l2", {"n_images": 500}),
}

Scorer = Callable[[Features], Tensor]  # higher = more typical
Combination = Callable[[Tensor, Tensor], Tensor]  # see `COMBINATIONS`
PACKAGES = ("gmm_torch", "torch", "torchvision", "foolbox", "pytorch-ood", "scikit-learn")


def fisher(log_p: Tensor, log_weights: Tensor) -> Tensor:
    """Weighted sum of log p-values (Fisher 1925)."""
    return (log_p * log_weights.exp()).sum(-1)


def harmonic(log_p: Tensor, log_weights: Tensor) -> Tensor:
    """Logarithm of the weighted harmonic mean (Wilson 2019), up to a constant."""
    return -torch.logsumexp(log_weights - log_p, dim=-1)


def minimum(log_p: Tensor, log_weights: Tensor) -> Tensor:
    """Smallest p_j / w_j (Bonferroni), as a logarithm."""
    return (log_p - log_weights).amin(-1)


def stouffer(log_p: Tensor, log_weights: Tensor) -> Tensor:
    """Weighted sum of normal scores (Stouffer 1949)."""
    p = log_p.exp().clamp(1e-7, 1 - 1e-7)
    result: Tensor = (torch.special.ndtri(p) * log_weights.exp()).sum(-1)
    return result


def cauchy(log_p: Tensor, log_weights: Tensor) -> Tensor:
    """Weighted sum of Cauchy quantiles (Liu and Xie 2020)."""
    p = log_p.exp().clamp(1e-7, 1 - 1e-7)
    return -(torch.tan((0.5 - p) * torch.pi) * log_weights.exp()).sum(-1)


COMBINATIONS = {
    "root_mean": root_mean,
    "fisher": fisher,
    "harmonic": harmonic,
    "minimum": minimum,
    "stouffer": stouffer,
    "cauchy": cauchy,
}


# ---- what is judged


@dataclass
class Failures:
    """Features on inputs of one column, and the test image that each was made from, or -1."""

    outputs: Features
    source: Tensor


@dataclass
class Study:
    """A classifier's outputs, under every view and at every layer that a method may ask for.

    Attributes:
        classifier: of the outputs.
        layers: rule -> names of layers.
        fit, fit_labels: on images that the classifier was trained on.
        test, test_labels: on images that it has not seen.
        failures: column -> attacked and out-of-distribution images.
        views: of the outputs.
    """

    classifier: nn.Module
    layers: dict[str, list[str]]
    fit: Features
    fit_labels: Tensor
    test: Features
    test_labels: Tensor
    failures: dict[str, Failures]
    views: Sequence[str] = VIEWS

    @property
    def head(self) -> nn.Linear:
        """The classifier's last linear layer; of a convolution of kernel size 1, what it does at every place."""
        head = self.classifier.get_submodule(self.layers[PENULTIMATE][0].removesuffix(INPUT))
        if isinstance(head, nn.Linear):
            return head
        assert isinstance(head, nn.Conv2d)
        linear = nn.Linear(head.in_channels, head.out_channels, bias=head.bias is not None)
        linear.load_state_dict(
            {name: value.flatten(1) if value.dim() > 1 else value for name, value in head.state_dict().items()}
        )
        return linear

    @cached_property
    def right(self) -> Tensor:
        """(n_test,) bool: rightly classified."""
        return self.test.own_logits.argmax(-1) == self.test_labels

    def features(self, outputs: Features, view: str = "identity") -> Tensor:
        """Penultimate features of one view, (N, D)."""
        return outputs.layers[self.layers[PENULTIMATE][0]][:, self.views.index(view)]

    def of(self, outputs: Features, rule: str, pooling: str, views: Sequence[str]) -> Features:
        """The part of `outputs` that an extractor with these settings would give."""
        rows = [self.views.index(view) for view in views]
        features = {}
        for layer in self.layers[rule]:
            value = outputs.layers[layer][:, rows]
            if rule != PENULTIMATE and pooling == "mean":
                value = value[..., : value.shape[-1] // 2]  # means come before deviations
            features[layer] = value
        return Features(outputs.logits[:, rows], features)


@dataclass(frozen=True)
class Split:
    """Which test images calibrate and which are judged."""

    seed: int
    calibration: Tensor
    test: Tensor

    @staticmethod
    def draw(seed: int, n: int, n_calibration: int, n_test: int) -> "Split":
        """At random, disjoint; not by the generator that chooses the images to attack, or they would be the same."""
        order = torch.from_numpy(np.random.default_rng(seed).permutation(n))
        return Split(seed, order[:n_calibration], order[n_calibration : n_calibration + n_test])


@dataclass
class Row:
    """One method's areas, in percent: column -> one number a seed."""

    group: str
    method: str
    auroc: dict[str, list[float]] = dataclasses.field(default_factory=dict)

    def add(self, areas: Mapping[str, float]) -> None:
        """One more seed."""
        for column, area in areas.items():
            self.auroc.setdefault(column, []).append(area)

    def summary(self, columns: Sequence[str]) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation over the seeds of each column, and of the mean and minimum of `columns`."""
        main = np.array([self.auroc[column] for column in columns])  # (columns, seeds)
        values = {**self.auroc, "mean": main.mean(0), "min": main.min(0)}
        return {
            name: (float(np.mean(value)), float(np.std(value, ddof=1)) if len(value) > 1 else 0.0)
            for name, value in values.items()
        }


def score_everything(scorer: Scorer, study: Study) -> dict[str, Tensor]:
    """Scores (n,) of the test images, under "", and of every column's failures."""
    scores = {"": scorer(study.test), **{name: scorer(fail.outputs) for name, fail in study.failures.items()}}
    for name, value in scores.items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"scores of {name or 'test images'} are not finite")
    return scores


def judged(study: Study, split: Split, column: str) -> Tensor:
    """Which of a column's failures belong to a split, as positions: made from a judged image, or from none."""
    source = study.failures[column].source
    return torch.where((source < 0) | torch.isin(source, split.test))[0]


def areas(scores: Mapping[str, Tensor], study: Study, split: Split) -> dict[str, float]:
    """Column -> area under the ROC curve in percent, failures being the positives."""
    test, right = scores[""][split.test], study.right[split.test]
    found = {ERRORS: area(test[right], test[~right])}
    for column, failures in study.failures.items():
        clean = test[right] if bool((failures.source >= 0).all()) else test
        found[column] = area(clean, scores[column][judged(study, split, column)])
    return found


def area(clean: Tensor, failed: Tensor) -> float:
    """In percent; nan where there is no failure."""
    if not len(clean) or not len(failed):
        return float("nan")
    truth = np.r_[np.zeros(len(clean)), np.ones(len(failed))]
    return 100 * float(roc_auc_score(truth, -torch.cat([clean, failed]).double().numpy()))


# ---- ours


class Fitter:
    """Fits mixtures as the detector does, and remembers the fits by their data.

    Args:
        folder: where fits are kept.
        seed: of the initialisation.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.seed = seed

    def __call__(self, mixture: GaussianMixture, features: Tensor) -> GaussianMixture:
        """Fit in place."""
        key = hashlib.sha256(f"{self.seed} {mixture} {inspect.getsource(fit_mixture)}".encode())
        key.update(features.contiguous().numpy().tobytes())
        path = self.folder / f"{key.hexdigest()[:24]}.safetensors"
        if path.exists():
            mixture.load_state_dict(load_file(path))
            return mixture
        fit_mixture(mixture, features, self.seed)
        with atomic_path(path) as temporary:
            save_file({name: value.contiguous() for name, value in mixture.state_dict().items()}, temporary)
        return mixture


class Ours:
    """Fits detectors to a study's outputs for one split."""

    def __init__(self, study: Study, split: Split, cache: Path) -> None:
        self.study = study
        self.split = split
        self.fitter = Fitter(cache / "mixtures", split.seed)

    def detector(self, score: Score, views: Sequence[str]) -> FailureDetector:
        """Fitted and calibrated."""
        layers = self.study.layers[score.layers]
        detector = FailureDetector(self.study.classifier, score=score, views=views, layers=layers, seed=self.split.seed)
        look = partial(self.study.of, rule=score.layers, pooling=score.pooling, views=views)
        detector.fit(look(self.study.fit), fitter=self.fitter)
        # only a score that `needs_labels` looks at them
        labelled = look(self.study.test)._replace(labels=self.study.test_labels)
        return detector.calibrate(labelled.rows(self.split.calibration))

    def areas(self, detector: FailureDetector) -> dict[str, float]:
        """Of a detector's scores."""
        return areas(self.everything(detector, detector.score), self.study, self.split)

    @torch.no_grad()
    def everything(self, detector: FailureDetector, judge: Scorer) -> dict[str, Tensor]:
        """What `judge` says of the test images, under "", and of every column's failures."""
        score, views = detector.score, detector.extractor.views
        return score_everything(lambda o: judge(self.study.of(o, score.layers, score.pooling, views)), self.study)

    def combined(
        self, log_p: Mapping[str, Tensor], names: Sequence[str], rule: Combination, weights: Mapping[str, float]
    ) -> dict[str, float]:
        """Areas of some parts' p-values, combined.

        Args:
            log_p: what `everything` says of them, (N, J) each.
            names: of the J parts.
            rule: from log p-values and log weights to a statistic.
            weights: of the parts that are taken.
        """
        kept, log_weights = [names.index(name) for name in weights], torch.tensor(list(weights.values())).log()
        return areas({key: rule(value[:, kept], log_weights) for key, value in log_p.items()}, self.study, self.split)

    def rows(self) -> dict[tuple[str, str], dict[str, float]]:
        """(group, method) -> areas."""
        found: dict[tuple[str, str], dict[str, float]] = {}
        for views in (VIEWS, VIEWS[:1]):
            found |= self._combined(self.detector(make_score("combined"), views))
        for view in VIEWS[1:]:
            found["views", f"image, {view}"] = self.areas(self.detector(make_score("combined"), ("identity", view)))
        for k in (30, 10):
            paper = self.detector(make_score("log_likelihood", n_components=k), VIEWS[:1])
            found["paper", f"log_likelihood, K={k}"] = self.areas(paper)
        for views in (VIEWS, VIEWS[:1]):
            labelled = self.detector(make_score("labelled_combined"), views)
            found["labels", f"default with labels, views={len(views)}"] = self.areas(labelled)
        for name, kind in SCORES.items():
            if name not in {"combined", "labelled_combined", "log_likelihood", *default_parts()}:
                found["score alone", f"{name}, views={len(kind.views)}"] = self.areas(
                    self.detector(make_score(name), kind.views)
                )
        return found

    def _combined(self, detector: FailureDetector) -> dict[tuple[str, str], dict[str, float]]:
        """A detector with the default score, and everything else that can be made of the p-values of its parts."""
        score = detector.score
        assert isinstance(score, Combined)
        names, n = list(score.weights), len(detector.extractor.views)
        weights = score.shares()
        log_p = self.everything(detector, score.log_p_values)  # (N, J)

        def by(rule: str, of_parts: Mapping[str, float]) -> dict[str, float]:
            return self.combined(log_p, names, COMBINATIONS[rule], of_parts)

        found = {("ours", f"default, views={n}" if n > 1 else "one pass, views=1"): by("root_mean", weights)}
        for rule in COMBINATIONS:
            if rule != "root_mean":
                found["combination", f"{rule}, views={n}"] = by(rule, weights)
        found["combination", f"root_mean with equal weights, views={n}"] = by("root_mean", dict.fromkeys(names, 1.0))
        for name in names:
            rest = {other: weight for other, weight in weights.items() if other != name}
            found["combination", f"without {name}, views={n}"] = by("root_mean", rest)
            found["score alone", f"{name}, views={n}"] = by("fisher", {name: 1.0})
        return found


# ---- peers


class NotApplicable(ValueError):
    """A peer needs what this benchmark has not got."""


def make_peer(kind: type[Any], study: Study) -> Any:
    """A detector of pytorch-ood with its defaults, given this classifier's last layer where it asks for it.

    Raises:
        NotApplicable: it asks for something else.
    """
    if not issubclass(kind, peer_api.LogitsDetector | peer_api.FeaturesDetector | peer_api.FeatureMapsDetector):
        raise NotApplicable("works on gradients, dropout samples or maps of several layers, not on logits or features")
    head = study.head.eval()
    maps = issubclass(kind, peer_api.FeatureMapsDetector)
    given = {
        "model": nn.Identity(),
        "encoder": nn.Identity(),
        "backbone": nn.Identity(),
        "head": nn.Sequential(nn.Flatten(), head) if maps else head,
        "w": head.weight.detach(),
        "b": head.bias.detach(),
        "d": head.in_features // 2,  # as pytorch-ood does where d is out of range
        "p": 0.9,  # DICE's for CIFAR
    }
    parameters = inspect.signature(kind).parameters.values()
    needed = [parameter for parameter in parameters if parameter.default is parameter.empty]
    wanted = [parameter.name for parameter in needed if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    missing = [name for name in wanted if name not in given]
    if missing:
        raise NotApplicable(f"needs {', '.join(missing)}")
    return kind(**{name: given[name] for name in wanted})


@torch.no_grad()
def peer_scores(kind: type[Any], study: Study, view: str) -> dict[str, Tensor]:
    """Scores of everything, fitted and judged on one view."""
    peer = make_peer(kind, study)
    if isinstance(peer, peer_api.LogitsDetector):
        what, points = "logits", lambda outputs: outputs.logits[:, study.views.index(view)]
    elif isinstance(peer, peer_api.FeatureMapsDetector):
        what, points = "feature_maps", lambda outputs: study.features(outputs, view)[..., None, None]
    else:
        what, points = "features", lambda outputs: study.features(outputs, view)
    if peer.requires_fit:
        with torch.enable_grad():
            getattr(peer, f"fit_{what}")(points(study.fit).clone(), study.fit_labels)

    def scorer(outputs: Features) -> Tensor:
        parts = [getattr(peer, f"predict_{what}")(part) for part in points(outputs).split(1000)]
        return -torch.cat(parts).detach().double()

    scores = score_everything(scorer, study)
    if len(scores[""].unique()) < 2:
        raise NotApplicable("gives every image the same score: needs maps over space")
    return scores


@torch.no_grad()
def joint_layers_scores(study: Study, view: str) -> dict[str, Tensor]:
    """Scores of everything by `JointLayers`, fitted and judged on one view."""

    def means(outputs: Features) -> dict[str, Tensor]:
        found = study.of(outputs, DEPTHS, "mean", [view]).layers
        return {layer: value[:, 0] for layer, value in found.items()}

    def predicted(outputs: Features) -> Tensor:
        return outputs.logits[:, study.views.index(view)].argmax(-1)

    if DEPTHS not in study.layers:
        raise NotApplicable("needs layers within the network, which were not kept")
    n_classes = study.fit.logits.shape[-1]
    peer = JointLayers(means(study.fit), study.fit_labels, predicted(study.fit), n_classes)
    return score_everything(lambda outputs: peer(means(outputs), predicted(outputs)), study)


def mixture_areas(scores: Mapping[str, Tensor], study: Study, split: Split) -> dict[str, float]:
    """Areas of a mixture over the scores (n, J) of several peers, fitted to those of the calibration images."""
    mixture = MixtureOfScores(scores[""][split.calibration], seed=split.seed)
    return areas({column: mixture(value) for column, value in scores.items()}, study, split)


def peer_rows(study: Study, splits: Sequence[Split]) -> tuple[list[Row], dict[str, str]]:
    """Rows of every peer, in one pass and averaged over the default's views; and who fails, why.

    They are all detectors of pytorch-ood, `JointLayers`, and `MixtureOfScores` over some of pytorch-ood's.
    """
    kinds = {name: getattr(peer_detectors, name) for name in sorted(peer_detectors.__all__, key=str.lower)}
    ways: dict[str, Callable[[str], dict[str, Tensor]]] = {
        name: partial(peer_scores, kind, study) for name, kind in kinds.items() if inspect.isclass(kind)
    }
    ways["JTLA"] = partial(joint_layers_scores, study)
    single: dict[str, dict[str, Tensor]] = {}
    averaged: dict[str, dict[str, Tensor]] = {}
    reasons = {"AdaSCALE": "works on gradients in the image, not on logits or features"}
    for name, way in ways.items():
        try:
            by_view = [way(view) for view in study.views]
        except Exception as error:  # whatever another library raises is the reason that the table gives
            reasons[name] = str(error) if isinstance(error, NotApplicable) else f"{type(error).__name__}: {error}"
            continue
        single[name] = by_view[0]
        if len(by_view) > 1:
            averaged[name] = {key: torch.stack([scores[key] for scores in by_view]).mean(0) for key in by_view[0]}
    rows = []
    for group, found in (("peer", single), ("peer over views", averaged)):
        if not found:
            continue
        rows += [_row(group, name, scores, study, splits) for name, scores in found.items()]
        if absent := [name for name in MIXED if name not in found]:
            reasons["BROAD mixture"] = f"without {', '.join(absent)}"
            continue
        rows.append(Row(group, f"BROAD mixture over {', '.join(MIXED)}"))
        for split in splits:
            rows[-1].add(mixture_areas(together(found, MIXED), study, split))
    for n in range(2, len(study.views) + 1):
        certainty = score_everything(lambda o, n=n: o.logits[:, :n].softmax(-1).mean(1).amax(-1), study)
        label = f"maximum of the mean softmax, {', '.join(['image', *study.views[1:n]])}"
        rows.append(_row("peer over views", label, certainty, study, splits))
    return rows, reasons


def _row(group: str, method: str, scores: Mapping[str, Tensor], study: Study, splits: Sequence[Split]) -> Row:
    row = Row(group, method)
    for split in splits:
        row.add(areas(scores, study, split))
    return row


# ---- data


class Workbench:
    """Attacks images and runs the classifier, each thing once.

    Args:
        classifier: on its device, in evaluation mode.
        train: images that it may have been trained on.
        test: images that it has not seen.
        ood: column -> images of another distribution.
        options: the command line's.
        rules: of finding the layers whose outputs are taken.
        views: under which.
    """

    def __init__(
        self,
        classifier: nn.Module,
        train: LabelledImages,
        test: LabelledImages,
        ood: Mapping[str, LabelledImages],
        options: argparse.Namespace,
        rules: Sequence[str] = (DEPTHS, PENULTIMATE),
        views: Sequence[str] = VIEWS,
    ) -> None:
        self.rules = rules
        self.views = views
        self.classifier = classifier.eval().requires_grad_(False)
        self.train = train
        self.test = test
        self.ood = ood
        self.options = options
        self.device = torch.device(options.device)
        self.cache = Path(options.cache) / fingerprint(classifier)["weights"][:12]

    def fit_indices(self) -> Tensor:
        """Evenly spaced among the training images that the classifier was trained on."""
        index = torch.arange(len(self.train))
        if self.options.held_out_every:
            index = index[index % self.options.held_out_every != 0]
        n = min(self.options.n_fit, len(index))
        return index[torch.arange(n) * len(index) // n]

    def held_out(self) -> Failures | None:
        """Training images that the classifier was not trained on, or None where it was trained on all."""
        every = self.options.held_out_every
        if not every:
            return None
        index = torch.arange(0, len(self.train), every)
        n = min(self.options.n_ood, len(index))
        index = index[torch.arange(n) * len(index) // n]
        return Failures(self.outputs("held_out", Subset(self.train, index.tolist())), torch.full((n,), -1))

    def attacked(self, name: str, base: str, changes: dict[str, Any]) -> tuple[Dataset[Any], Tensor, dict[str, Any]]:
        """The successes of an attack on test images, the test image behind each, and what the attack says of itself."""
        cfg = OmegaConf.merge(OmegaConf.load(CONF / "attack" / f"{base}.yaml")[base], changes)
        text = OmegaConf.to_yaml(cfg) + content_digest(self.test)
        path = self.cache / "attacks" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.safetensors"
        if not path.exists():
            print(f"attack {name}: {cfg.n_images} images", flush=True)
            loader = DataLoader(self.test, batch_size=cfg.batch_size)
            result = instantiate(cfg).run(self.classifier, loader, self.device)
            about = {
                key: getattr(result, key)
                for key in ("n_attacked", "n_success", "success_rate", "median_l2", "median_linf")
            }
            with atomic_path(path) as temporary:
                tensors = {"images": result.images.contiguous(), "index": result.index}
                save_file(tensors, temporary)
            with atomic_path(path.with_suffix(".json")) as temporary:
                temporary.write_text(json.dumps({**about, "config": OmegaConf.to_container(cfg)}))
        stored = load_file(path)
        about = json.loads(path.with_suffix(".json").read_text())
        return _Images(stored["images"]), stored["index"], about

    @cached_property
    def layers(self) -> dict[str, list[str]]:
        """Rule -> names."""
        x = torch.stack(2 * [self.train[0][0]]).to(self.device)
        return {rule: FINDERS[rule](self.classifier, x)[0] for rule in self.rules}

    @torch.no_grad()
    def outputs(self, name: str, images: Dataset[Any]) -> Features:
        """Of all views, at the layers of all rules, on the CPU."""
        names = list(dict.fromkeys(name for rule in self.rules for name in self.layers[rule]))
        n = len(images)  # type: ignore[arg-type]
        probe = hashlib.sha256(repr((names, self.views, n)).encode())
        for index in torch.linspace(0, n - 1, 16).long().tolist():
            probe.update(images[index][0].numpy().tobytes())
        path = self.cache / "outputs" / f"{name}-{probe.hexdigest()[:12]}.safetensors"
        if not path.exists():
            print(f"outputs: {name}, {n} images", flush=True)
            extractor = FeatureExtractor(self.classifier, names, pooling="moments", views=self.views)
            parts = [extractor(x.to(self.device)) for x, *_ in DataLoader(images, batch_size=256)]
            whole = Features.cat([Features(p.logits.cpu(), {k: v.cpu() for k, v in p.layers.items()}) for p in parts])
            with atomic_path(path) as temporary:
                save_file({"": whole.logits.contiguous(), **_contiguous(whole.layers)}, temporary)
        stored = load_file(path)
        return Features(stored.pop(""), {layer: stored[layer] for layer in names})

    def study(self, attacks: Attacks) -> tuple[Study, dict[str, Any]]:
        """Everything the methods need, and what the attacks say of themselves."""
        about: dict[str, Any] = {}
        failures: dict[str, Failures] = {}
        for name, (base, changes) in attacks.items():
            images, index, about[name] = self.attacked(name, base, changes)
            failures[name] = Failures(self.outputs(name, images), index)
        for name, images in self.ood.items():
            failures[name] = Failures(self.outputs(name, images), torch.full((len(images),), -1))
        index = self.fit_indices()
        study = Study(
            classifier=self.classifier,
            layers=self.layers,
            fit=self.outputs("fit", Subset(self.train, index.tolist())),
            fit_labels=self.train.targets[index],
            test=self.outputs("test", self.test),
            test_labels=self.test.targets,
            failures=failures,
            views=self.views,
        )
        self.classifier.cpu()
        return study, about


def workbench(options: argparse.Namespace) -> Workbench:
    """That of the command line."""
    cfg = composed(
        f"classifier={options.classifier}",
        f"classifier.checkpoint={options.checkpoint}",
        "data=image_folder",
        f"data.root={options.data}",
        f"data.image_shape={list(options.image_shape)}",
        *options.override,
    )
    shape = tuple(cfg.data.image_shape)
    train, test = (image_folder(options.data, split, image_shape=shape) for split in ("train", "test"))
    classifier = build_classifier(cfg.classifier, len(train.class_names), shape).to(options.device)
    return Workbench(classifier, train, test, ood_sets(options.ood, shape, options.n_ood), options)


def ood_sets(named: Mapping[str, str], image_shape: Sequence[int], limit: int) -> dict[str, LabelledImages]:
    """Column -> images of a folder, of a folder of IDX files, or of a config of conf/ood."""
    configs: dict[str, Any] = {}
    for name, value in named.items():
        folder = Path(value).expanduser()
        files = find_idx_files([folder], "test") if folder.is_dir() else None
        if files is not None:
            name_of_set = published_in(files[1]) or "MNIST"
            source = {"_target_": "trainers.data.idx.idx_images", "name": name_of_set, "root": value}
            configs[name] = {**source, "split": "test", "download": False}
        elif folder.is_dir():
            source = {"_target_": "trainers.data.folder.image_folder", "_partial_": True}
            configs[name] = {**source, "root": value, "split": "all"}
        else:
            configs[name] = composed(f"ood=[{value}]").ood[value]
    for config in configs.values():
        if "n_images" in config:
            config["n_images"] = limit
    return build_ood(configs, image_shape, seed=0, limit=limit)


class _Images(Dataset[tuple[Tensor, int]]):
    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], -1


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in tensors.items()}


# ---- the report


GROUPS = {
    "ours": "The detector",
    "labels": "The detector with labels of the calibration images",
    "peer": "Peers in one pass (pytorch-ood, its defaults)",
    "peer over views": "Peers averaged over the same views",
    "paper": "The paper's plain method",
    "score alone": "Each score alone",
    "views": "Which views",
    "combination": "Other ways to combine the same scores",
}


def table(result: Mapping[str, Any], groups: Sequence[str], columns: Sequence[str], ends: Sequence[str] = ()) -> str:
    """Markdown: mean ± standard deviation over the seeds, one line a method."""
    shown = [*columns, *ends]
    lines = ["| method | " + " | ".join(shown) + " |", "| --- |" + " ---: |" * len(shown)]
    for row in result["rows"]:
        if row["group"] in groups:
            cells = [f"{row['auroc'][c]['mean']:.1f} ± {row['auroc'][c]['std']:.1f}" for c in shown]
            lines.append(f"| {row['method']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def gaps(result: Mapping[str, Any]) -> str:
    """Markdown: in each column the best peer, and how far above or below it the detector is."""
    columns, rows = result["columns"], result["rows"]
    ours = [row for row in rows if row["group"] == "ours"]
    lines = ["| column | best peer, one pass | " + " | ".join(row["method"] for row in ours)]
    lines[0] += " | best peer over the same views | " + ours[0]["method"] + " |"
    lines.append("| --- | --- |" + " ---: |" * len(ours) + " --- | ---: |")
    for column in [*columns, "mean", "min"]:
        cells = [column]
        for group, against in (("peer", ours), ("peer over views", ours[:1])):
            peers = [row for row in rows if row["group"] == group]
            best = max(peers, key=lambda row: row["auroc"][column]["mean"])
            area_of_best = best["auroc"][column]["mean"]
            cells.append(f"{best['method']} {area_of_best:.1f}")
            cells += [f"{row['auroc'][column]['mean'] - area_of_best:+.1f}" for row in against]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def document(result: Mapping[str, Any]) -> str:
    """Everything, in Markdown."""
    n, ends = result["n"], ("mean", "min", *([HELD_OUT] if HELD_OUT in result["n"] else []))
    counts = ", ".join(f"{column} {n[column]}" for column in result["columns"])
    beside = f"{HELD_OUT}: {n[HELD_OUT]} training images, no failures, so 50 is right. " if HELD_OUT in n else ""
    parts = [
        f"AUROC in %, mean ± standard deviation over seeds {', '.join(map(str, result['seeds']))} (calibration split "
        f"and start of EM). Accuracy on the {n['all test images']} test images {100 * result['accuracy']:.1f} %; "
        f"fitted on {n['fit']} training images, calibrated on {n['calibration']} test images, judged on {n['test']} "
        f"others. Failures a seed: {counts}. "
        + beside
        + f"{result['device']}; "
        + versions_text(result["versions"])
        + "."
    ]
    for group, title in GROUPS.items():
        if not any(row["group"] == group for row in result["rows"]):
            continue
        parts += [f"**{title}**", table(result, [group], result["columns"], ends)]
        if group == "ours":
            parts += ["**Against the best peer of each column** (difference in points)", gaps(result)]
    if result["peers not run"]:
        parts.append("**Peers not run**")
        parts.append("\n".join(f"- {name}: {reason}" for name, reason in result["peers not run"].items()))
    return "\n\n".join(parts)


# ---- the command


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classifier", default="resnet20", help="a config of conf/classifier")
    parser.add_argument("--checkpoint", required=True, help="the classifier's weights")
    parser.add_argument("--data", required=True, help="a folder with train/<class>/* and test/<class>/*")
    parser.add_argument("--image-shape", type=int, nargs=3, default=(3, 32, 32), metavar=("C", "H", "W"))
    parser.add_argument(
        "--override", nargs="*", default=[], help="of the configs, such as data.mean=[0.5,0.5,0.5]; see conf/"
    )
    parser.add_argument(
        "--ood",
        nargs="*",
        default=[],
        metavar="NAME=SET",
        help="a column and a folder of images, a folder of IDX files, or a config of conf/ood",
    )
    parser.add_argument("--attacks", nargs="*", default=list(ATTACKS), choices=[*ATTACKS, []], metavar="NAME")
    parser.add_argument(
        "--held-out-every",
        type=int,
        default=10,
        help="the classifier was trained without training images 0, n, 2n, ... of the sorted list; 0: with all",
    )
    parser.add_argument("--n-fit", type=int, default=20_000)
    parser.add_argument("--n-calibration", type=int, default=2000)
    parser.add_argument("--n-test", type=int, default=3000)
    parser.add_argument("--n-ood", type=int, default=2500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="of the classifier")
    parser.add_argument("--cache", default="runs/detection")
    parser.add_argument("--prepare", action="store_true", help="fill the cache and stop before anything is judged")
    parser.add_argument("--result", default=str(Path(__file__).parent / "results" / "detection.json"))
    parser.add_argument("--document", help="a Markdown file whose marked lines are replaced by the tables")
    options = parser.parse_args(arguments)
    pairs = [entry.partition("=") for entry in options.ood]
    if any(not name or not value for name, _, value in pairs):
        parser.error(f"--ood: expected NAME=SET, got {' '.join(options.ood)}")
    options.ood = {name: value for name, _, value in pairs}
    return options


def main() -> None:
    """Run everything; see the first lines of the module."""
    options = parse()
    bench = workbench(options)
    held_out = bench.held_out()
    study, about = bench.study({name: ATTACKS[name] for name in options.attacks})
    if options.prepare:
        return
    if held_out is not None:
        study.failures[HELD_OUT] = held_out
    n = len(study.test_labels)
    if options.n_calibration + options.n_test > n:
        raise SystemExit(f"--n-calibration and --n-test: expected at most {n} test images together")
    splits = [Split.draw(seed, n, options.n_calibration, options.n_test) for seed in options.seeds]
    rows: dict[tuple[str, str], Row] = {}
    for split in splits:
        print(f"seed {split.seed}", flush=True)
        for key, found in Ours(study, split, bench.cache).rows().items():
            rows.setdefault(key, Row(*key)).add(found)
    peers, reasons = peer_rows(study, splits)
    columns = [ERRORS, *(name for name in study.failures if name != HELD_OUT)]
    counts = {name: [len(judged(study, split, name)) for split in splits] for name in study.failures}
    counts[ERRORS] = [int((~study.right[split.test]).sum()) for split in splits]
    result = {
        "columns": columns,
        "seeds": options.seeds,
        "accuracy": float(study.right.double().mean()),
        "n": {
            "all test images": n,
            "fit": len(study.fit_labels),
            "calibration": options.n_calibration,
            "test": options.n_test,
            **{name: round(float(np.mean(values))) for name, values in counts.items()},
        },
        "device": f"{bench.device.type} ({platform.machine()})",
        "versions": {name: version(name) for name in PACKAGES},
        "attacks": about,
        "peers not run": reasons,
        "rows": [
            {
                "group": row.group,
                "method": row.method,
                "auroc": {
                    name: {"mean": round(mean, 2), "std": round(std, 2)}
                    for name, (mean, std) in row.summary(columns).items()
                },
            }
            for row in [*rows.values(), *peers]
        ],
    }
    save(Path(options.result), result)
    text = document(result)
    print(text)
    if options.document:
        fill(Path(options.document), "detection", text)


if __name__ == "__main__":
    main()
