"""The detector: however inputs come, in whatever surroundings, by whichever verb, the verdict is the same."""

import copy
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from gmm_torch import FailureDetector, Verdict
from gmm_torch.conformal.calibration import Calibration
from gmm_torch.conformal.conditional import ConditionalCalibration
from gmm_torch.conformal.mondrian import MondrianCalibration
from gmm_torch.detector import Features
from gmm_torch.scores import make_score
from tests.equivalence.digits import (
    ALPHA,
    asked_about,
    classifier,
    detector,
    labels,
    new_detector,
    not_calibrated,
    split,
)
from tests.equivalence.rows import Row, Way, asked, near
from tests.equivalence.surroundings import bfloat16, default_dtype, folder, threads, within

Answer = dict[str, Any]
FAR = -50.0  # a score far below those of all calibration images
CLOSE = 2e-4  # of scores, which are natural logarithms, and of p-values, whose steps are 1/267
CALIBRATIONS = {
    "marginal": Calibration,
    "mondrian": partial(MondrianCalibration, 10),
    "conditional": partial(ConditionalCalibration, method="dkw"),
}
SCORES = ("log_likelihood", "class_conditional", "mahalanobis", "max_softmax")


def told(verdict: Verdict | Iterable[Any]) -> Answer:
    """What a detector says, but for what has no meaning: classes of absurd images, and how far out the absurd are."""
    _, prediction, score, p_value, accept = verdict
    finite = torch.isfinite(torch.as_tensor(asked_about()[: len(score)]).flatten(1).sum(1))
    prediction = torch.where(finite, torch.as_tensor(prediction), -1)
    score = torch.as_tensor(score).detach().clamp_min(FAR)
    return {"prediction": prediction, "score": score, "p_value": p_value, "accept": accept}


def about(judge: Callable[[Tensor], Any]) -> Answer:
    """`told` of all inputs at once."""
    return told(judge(asked_about()))


def explained(judge: FailureDetector, x: Tensor, features: Features | None = None) -> Verdict:
    """The verdict that explanations hold; the logits are the classifier's."""
    found = judge.explain(x if features is None else features)
    numbers = ([getattr(each, name) for each in found] for name in ("prediction", "score", "p_value", "accept"))
    prediction, score, p_value, accept = numbers
    return Verdict(
        judge(x).logits,
        torch.tensor(prediction),
        torch.tensor(score),
        torch.tensor(p_value, dtype=torch.float64),
        torch.tensor(accept),
    )


def in_parts(size: int, judge: Callable[[Tensor], Any] | None = None) -> Answer:
    """`told`, asked in batches."""
    parts = [(judge or detector())(x) for x in asked_about().split(size)]
    return told([torch.cat([torch.as_tensor(part[i]) for part in parts]) for i in range(5)])


def among_others() -> Answer:
    """Each input in another order, and among other neighbours."""
    order = torch.randperm(len(asked_about()), generator=torch.Generator().manual_seed(3))
    back = order.argsort()
    return told([value[back] for value in detector()(asked_about()[order])])


def in_training_mode() -> Answer:
    """By a classifier that is left in training mode, as many are."""
    other = copy.deepcopy(detector())
    other.classifier.train()
    return about(other)


def through_a_file(given: torch.nn.Module | None = None, strict: bool = True) -> FailureDetector:
    """Saved and loaded."""
    path = folder("detector") / "detector.safetensors"
    detector().save(path)
    return FailureDetector.load(path, given or classifier(), strict=strict)


def compiled() -> Answer:
    """torch.compile, without code generation, which tests of kernels do."""
    return about(torch.compile(copy.deepcopy(_of_score("log_likelihood")), backend="aot_eager"))


def by_onnx() -> Answer:
    """onnxruntime."""
    import onnxruntime

    from gmm_torch.detector.onnx import save_onnx

    path = folder("onnx") / "detector.onnx"
    save_onnx(copy.deepcopy(_of_score("log_likelihood")), split("test")[:4], path)
    found = onnxruntime.InferenceSession(path).run(None, {"x": asked_about().numpy()})
    return told([torch.from_numpy(np.array(each)) for each in found])


def by_export() -> Answer:
    """torch.export."""
    batch = torch.export.Dim("batch", min=2, max=4096)
    other = copy.deepcopy(_of_score("log_likelihood")).eval()
    program = torch.export.export(other, (split("test")[:4],), dynamic_shapes={"x": {0: batch}})
    return about(program.module())


def by_ranks(found: FailureDetector) -> list[bool]:
    """accept, from integers and exact fractions."""
    scores, calibration = found(asked_about()).score.tolist(), found.calibration.scores.tolist()
    alpha, n = Fraction(str(found.alpha)), len(calibration)
    return [Fraction(1 + sum(c <= score for c in calibration), n + 1) > alpha for score in scores]


def accepted(found: FailureDetector, how: str) -> Tensor:
    """accept, by another public way."""
    x = asked_about()
    verdict = found(x)
    if how == "threshold":
        return verdict.score >= found.threshold(found.extractor(x))
    if how == "margin":
        return found.margin(x) >= 0
    if how == "p_value":
        return verdict.p_value > found.alpha
    if how == "numpy":
        return torch.from_numpy(verdict.p_value.numpy() > found.alpha)
    return verdict.accept


@cache
def small(n: int, kind: str = "marginal") -> FailureDetector:
    """A detector of `log_likelihood` with n calibration images, so that alpha (n + 1) is a whole number."""
    score = make_score("log_likelihood", n_components=K_SMALL)
    found = new_detector(score=score, calibration=CALIBRATIONS[kind]())
    return found.fit(split("fit").split(100)).calibrate([split("calibration")[:n]])


K_SMALL = 2


@cache
def outputs(name: str) -> Features:
    """Of a split."""
    return detector().features(split(name).split(100))


def fitted(loader: Iterable[Any], **options: Any) -> FailureDetector:
    """Fitted to a loader, calibrated as ever."""
    return new_detector(**options).fit(loader).calibrate(split("calibration").split(100))


def calibrated(loader: Iterable[Any]) -> FailureDetector:
    """The same detector with another calibration."""
    return copy.deepcopy(detector()).calibrate(loader)


def by_label(name: str) -> Tensor:
    """A split sorted by class, as folders are."""
    return split(name)[labels(name).argsort(stable=True)]


def in_turn(name: str) -> Tensor:
    """A split whose classes take turns, three of them, then the rest: every third image is of one class."""
    rank = torch.empty(len(labels(name)), dtype=torch.long)
    for c in range(10):
        mine = labels(name) == c
        rank[mine] = torch.arange(int(mine.sum()))
    return split(name)[(rank * 10 + (labels(name) * 3) % 10).argsort(stable=True)]


def shuffled(name: str, seed: int = 0) -> Tensor:
    """A split in another order."""
    return split(name)[torch.randperm(len(split(name)), generator=torch.Generator().manual_seed(seed))]


def share_refused(found: FailureDetector, alpha: float = 0.1) -> float:
    """Of clean test images."""
    return float((found(split("test")).p_value <= alpha).double().mean())


def of_large_outputs(score: str, order: str) -> Tensor:
    """Scores by a detector that was fitted to 24,000 features of ten classes, in some order."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(24_000) % 10
    centre = 3 * torch.randn(10, 6, generator=generator)
    features = (centre[label] + torch.randn(24_000, 6, generator=generator)).relu()
    logits = 4 * one_hot(label) + torch.randn(24_000, 10, generator=generator)
    rows = {"mixed": torch.arange(24_000), "sorted": label.argsort(stable=True)}[order]
    found = new_detector(score=make_score(score), layers=["7"], views=1)
    found.fit(Features(logits[rows][:, None], {"7": features[rows][:, None]}))
    return found.score(Features(logits[:500, None], {"7": features[:500, None]}))


def one_hot(label: Tensor) -> Tensor:
    """(N, 10) float32."""
    return torch.nn.functional.one_hot(label, 10).float()


def half_precision_classifier(dtype: torch.dtype) -> float:
    """Share of clean images refused by the same detector for weights stored in fewer bits."""
    found = through_a_file(copy.deepcopy(classifier()).to(dtype), strict=False)
    return float((found(split("test").to(dtype)).p_value <= 0.1).double().mean())


def table() -> list[Row]:
    """The rows of this theme."""
    ask = partial(asked, "detector")
    rows: list[Row] = []
    one = partial(about, lambda x: detector()(x))
    rows += ask(
        "a verdict",
        {
            "detector(x)": one,
            "again": one,
            "detector(features)": lambda: about(lambda x: detector()(detector().extractor(x))),
            "explain(x)": lambda: about(lambda x: explained(detector(), x)),
            "explain(features)": lambda: about(lambda x: explained(detector(), x, detector().extractor(x))),
            "one by one": near(lambda: in_parts(1), CLOSE),
            "batches of 7": near(lambda: in_parts(7), CLOSE),
            "in another order": near(among_others, CLOSE),
            "of a tensor with channels last": near(
                lambda: about(lambda x: detector()(x.contiguous(memory_format=torch.channels_last))), CLOSE
            ),
            "of every second row of a tensor": lambda: about(lambda x: detector()(x.repeat_interleave(2, 0)[::2])),
            "with a gradient": lambda: about(lambda x: detector()(x.clone().requires_grad_())),
            "no_grad": within(torch.no_grad, one),
            "inference mode": within(torch.inference_mode, one),
            "default float64": within(partial(default_dtype, torch.float64), one),
            "two threads": near(within(partial(threads, 2), one), CLOSE),
            "of a classifier in training mode": in_training_mode,
            "of a detector in training mode": lambda: about(copy.deepcopy(detector()).train()),
            "of a copy": lambda: about(copy.deepcopy(detector())),
            "through a file": lambda: about(through_a_file()),
            "float64 throughout": near(_in_double, 5e-3),
        },
    )  # fmt: skip
    clean = split("test")
    rows += ask(
        "a verdict on clean images",
        {
            "detector(x)": lambda: tuple(detector()(clean)),
            "verdict(outputs of a loader)": near(
                lambda: tuple(detector()(detector().features(clean.split(50)))), CLOSE
            ),
            "batches (x, label) of a loader": near(
                lambda: tuple(detector()(detector().features(DataLoader(TensorDataset(clean, labels("test")), 64)))),
                CLOSE,
            ),
        },
    )
    rows += ask(
        "a share of clean images refused",
        {
            "float32": lambda: share_refused(detector()),
            "autocast to bfloat16": near(within(bfloat16, lambda: share_refused(detector())), 0.03, 0),
            "autocast to float16": near(
                within(partial(torch.autocast, "cpu", dtype=torch.float16), lambda: share_refused(detector())), 0.03, 0
            ),
            "weights in bfloat16": near(lambda: half_precision_classifier(torch.bfloat16), 0.03, 0),
            "weights in float64": near(lambda: half_precision_classifier(torch.float64), 0.01, 0),
        },
    )
    for n, kind in ((19, "marginal"), (39, "marginal"), (199, "marginal"), (399, "mondrian")):
        found = partial(small, n, kind)
        ways: dict[str, Callable[[], Any] | Way] = {
            "accept": lambda f=found: f()(asked_about()).accept,
            **{how: (lambda f=found, h=how: accepted(f(), h)) for how in ("p_value", "threshold", "margin")},
            "p_value in NumPy": lambda f=found: accepted(f(), "numpy"),
            "explain": lambda f=found: explained(f(), asked_about()).accept,
        }
        if kind == "marginal":
            ways["ranks and fractions"] = lambda f=found: torch.tensor(by_ranks(f()))
        rows += ask(f"accepted or refused, {n} to calibrate, {kind}", ways)
    rows += ask(
        "accepted or refused by the default",
        {
            "accept": lambda: detector()(asked_about()).accept,
            "threshold": lambda: accepted(detector(), "threshold"),
            "margin": lambda: accepted(detector(), "margin"),
            "ranks and fractions": lambda: torch.tensor(by_ranks(detector())),
        },
    )
    rows += _fits(ask)
    for name, atol in (("depth_consistency", 0.01), ("combined", 0.15)):
        rows += ask(
            f"{name} after a fit to 24,000 features",
            {
                "classes mixed": lambda s=name: of_large_outputs(s, "mixed"),
                "sorted by class": near(lambda s=name: of_large_outputs(s, "sorted"), atol, 0.05),
            },
        )
    rows += ask(
        "a detector calibrated with the same images",
        {
            "batches of 100": lambda: about(calibrated(split("calibration").split(100))),
            "batches of 1": near(lambda: about(calibrated(split("calibration").split(1))), CLOSE),
            "outputs": lambda: about(copy.deepcopy(detector()).calibrate(outputs("calibration"))),
            "twice": lambda: about(
                calibrated(split("calibration").split(100)).calibrate(split("calibration").split(100))
            ),
            "after other images": lambda: about(calibrated([split("test")]).calibrate(split("calibration").split(100))),
            "in another order": near(lambda: about(calibrated([shuffled("calibration")])), CLOSE),
            "in a third order": near(lambda: about(calibrated([shuffled("calibration", 1)])), CLOSE),
            "sorted by class": near(lambda: about(calibrated([by_label("calibration")])), CLOSE),
            "classes in turn": near(lambda: about(calibrated([in_turn("calibration")])), CLOSE),
            "inference mode": within(torch.inference_mode, lambda: about(calibrated(split("calibration").split(100)))),
        },
    )
    rows += ask(
        "a detector calibrated with few images",
        {
            "at once": lambda: about(_few_after(None)),
            "after a calibration with many": lambda: about(_few_after("calibration")),
        },
    )
    for name, as_ever, options in (
        ("the default", detector, dict),
        ("one view", lambda: fitted(split("fit").split(100), views=1), lambda: {"views": 1}),
        ("log_likelihood", partial(_of_score, "log_likelihood"), lambda: {"score": make_score("log_likelihood")}),
    ):
        rows += ask(
            f"a gradient of the margin, {name}",
            {
                "fitted as ever": lambda a=as_ever: _gradient(a()),
                "fitted in inference mode": lambda o=options: _gradient(
                    within(torch.inference_mode, lambda: fitted(split("fit").split(100), **o()))()
                ),
            },
        )
    rows += ask(
        "p-values with one class",
        {
            "marginal": lambda: Calibration().fit(_scores(), ALPHA).p_value(_scores() + 0.01),
            "mondrian": lambda: (
                MondrianCalibration(1)
                .fit(_scores(), ALPHA, predictions=torch.zeros(len(_scores()), dtype=torch.long))
                .p_value(_scores() + 0.01, torch.zeros(len(_scores()), dtype=torch.long))
            ),
            "mondrian, all classes pooled": lambda: (
                MondrianCalibration(10, min_size=len(_scores()))
                .fit(_scores(), ALPHA, predictions=torch.arange(len(_scores())) % 10)
                .p_value(_scores() + 0.01, torch.arange(len(_scores())) % 10)
            ),
        },
    )
    for kind in CALIBRATIONS:
        rows += ask(
            f"a verdict with the calibration {kind}",
            {
                "at once": lambda k=kind: about(_with(k)),
                "through a file": lambda k=kind: about(_reloaded(_with(k))),
                "one by one": near(lambda k=kind: in_parts(1, _with(k)), CLOSE),
                "calibrated in another order": near(
                    lambda k=kind: about(copy.deepcopy(_with(k)).calibrate([shuffled("calibration")])), CLOSE
                ),
            },
        )
    onnx = ("onnx", "onnxscript", "onnxruntime")
    rows += ask(
        "a verdict of a translated detector",
        {
            "as it is": lambda: about(_of_score("log_likelihood")),
            "torch.compile": near(compiled, CLOSE),
            "torch.export": near(by_export, CLOSE, marks=(pytest.mark.export,)),
            "ONNX": near(by_onnx, 1e-3, needs=onnx, marks=(pytest.mark.export, pytest.mark.filterwarnings("ignore"))),
        },
    )
    for name in SCORES:
        rows += ask(
            f"a verdict by the score {name}",
            {
                "at once": lambda s=name: about(_of_score(s)),
                "one by one": near(lambda s=name: in_parts(1, _of_score(s)), CLOSE),
                "through a file": lambda s=name: about(_reloaded(_of_score(s))),
                "ranks and fractions": lambda s=name: {
                    **about(_of_score(s)),
                    "accept": torch.tensor(by_ranks(_of_score(s))),
                },
            },
        )
    return rows


def _fits(ask: Callable[..., list[Row]]) -> list[Row]:
    usual = split("fit").split(100)
    rows = ask(
        "a detector fitted to the same images",
        {
            "a list of batches": lambda: about(detector()),
            "the same again": lambda: about(fitted(usual)),
            "batches of 50": near(lambda: about(fitted(split("fit").split(50))), 5e-3),
            "batches of 1": near(lambda: about(fitted(split("fit").split(1))), 5e-3),
            "one batch": near(lambda: about(fitted([split("fit")])), 5e-3),
            "a DataLoader with labels": lambda: about(fitted(_loader("fit"))),
            "outputs": lambda: about(_from_outputs()),
            "in another order": near(lambda: about(fitted(shuffled("fit").split(100))), 5e-3),
            "sorted by class": near(lambda: about(fitted(by_label("fit").split(100))), 5e-3),
            "inference mode": lambda: about(within(torch.inference_mode, lambda: fitted(usual))()),
            "a second time": lambda: about(_fitted_twice()),
            "a fitter of one's own": lambda: about(_by_a_fitter()),
            "two threads": near(within(partial(threads, 2), lambda: about(fitted(usual))), 5e-3),
        },
    )
    return rows + ask(
        "a share of clean images refused by a detector",
        {
            "fitted in float32": lambda: share_refused(detector()),
            "fitted under autocast": near(lambda: share_refused(within(bfloat16, lambda: fitted(usual))()), 0.05, 0),
        },
    )


def _in_double() -> Answer:
    other = copy.deepcopy(detector()).double()
    return told(other(asked_about().double()))


def _loader(name: str) -> DataLoader[Any]:
    return DataLoader(TensorDataset(split(name), labels(name)), 100)


def _from_outputs() -> FailureDetector:
    found = new_detector()
    return found.fit(found.features(split("fit").split(100))).calibrate(split("calibration").split(100))


def _fitted_twice() -> FailureDetector:
    found = new_detector().fit([split("test")])
    return found.fit(split("fit").split(100)).calibrate(split("calibration").split(100))


def _by_a_fitter() -> FailureDetector:
    found = new_detector()
    found.fit(
        split("fit").split(100), fitter=lambda mixture, z: mixture.fit(z, reg_covar=1e-2, shrinkage="oas", seed=0)
    )
    return found.calibrate(split("calibration").split(100))


def _few_after(before: str | None) -> FailureDetector:
    found = copy.deepcopy(not_calibrated())
    if before:
        found.calibrate([split(before)])
    return found.calibrate([split("calibration")[:60]])


def _gradient(found: FailureDetector) -> Tensor:
    x = split("test")[:20].clone().requires_grad_()
    found.margin(x).sum().backward()
    assert x.grad is not None
    return x.grad


@cache
def _scores() -> Tensor:
    return torch.randn(99, generator=torch.Generator().manual_seed(4)).mul(8).round().div(8)  # with ties


@cache
def _with(kind: str) -> FailureDetector:
    score = make_score("log_likelihood", n_components=K_SMALL)
    found = new_detector(score=score, calibration=CALIBRATIONS[kind](), alpha=0.2)
    return found.fit(split("fit").split(100)).calibrate([split("calibration")])


def _reloaded(found: FailureDetector) -> FailureDetector:
    path = folder("detector") / "detector.safetensors"
    found.save(path)
    return FailureDetector.load(path, classifier())


@cache
def _of_score(name: str) -> FailureDetector:
    return new_detector(score=make_score(name)).fit(split("fit").split(100)).calibrate([split("calibration")])
