"""The failure detector: classifier, features, score, calibration, verdict. Read this first."""

import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from gmm_torch.conformal.calibration import Calibration
from gmm_torch.conformal.calibrations import make_calibration
from gmm_torch.conformal.mondrian import MondrianCalibration
from gmm_torch.detection.explanation.component_report import ComponentReport, component_report
from gmm_torch.detection.explanation.examples import Examples
from gmm_torch.detection.explanation.explanation import Explanation, explain
from gmm_torch.detection.features.augmentations import is_image
from gmm_torch.detection.features.extractor import FeatureExtractor
from gmm_torch.detection.features.inputs import (
    Inputs,
    changed,
    check_loader,
    has_labels,
    inputs_given,
    inputs_of,
    labels_of,
)
from gmm_torch.detection.features.outputs import Outputs
from gmm_torch.detection.features.precision import (
    at_least_float32,
    learning,
    leave_inference_mode,
    match_types,
    precisely,
)
from gmm_torch.detection.files.description import Description
from gmm_torch.detection.files.storage import (
    DetectorFile,
    check_fit,
    fingerprint,
    load_exactly,
    part_of,
    read_detector,
    write_detector,
)
from gmm_torch.detection.mixtures.usage import warn_of_unused_components
from gmm_torch.detection.mixtures.valid_range import ValidRange
from gmm_torch.detection.scores import Fitter, Score, make_score
from gmm_torch.detection.scores.base import at_most
from gmm_torch.detection.streaming.chunks import CHUNK, Chunks, in_chunks
from gmm_torch.detection.streaming.finite_check import FiniteCheck
from gmm_torch.detection.streaming.reduced import Reduced
from gmm_torch.detection.streaming.sample import Sample
from gmm_torch.detection.summary import summary
from gmm_torch.detection.verdict import Verdict
from gmm_torch.devices import full_precision
from gmm_torch.distributed import gather_rows, share
from gmm_torch.errors import FileFormatError, NotFittedError, PrecisionWarning
from gmm_torch.mixture import GaussianMixture

# Of the fitting inputs, and of the calibration inputs, so many at most are a reference for scores that need one.
HELD_OUT_SHARE, REFERENCE_SHARE, MAX_REFERENCE = 1 / 5, 1 / 3, 10_000
# Features of a classifier are nearly rank-deficient: without a floor a component collapses onto a few points and
# held-out inputs look impossible. Chosen by held-out likelihood, which needs no failures.
REG_COVAR = 1e-2


def fit_mixture(mixture: GaussianMixture, features: Tensor, seed: int) -> GaussianMixture:
    """Fit a mixture of a score to features (N, D) in place, as `FailureDetector.fit` does without a fitter.

    Of several processes, which all have the same features, each takes a share.
    """
    # Few points in many dimensions: without shrinkage each component learns its own points by heart, and new inputs
    # all fall to the widest of them.
    shrinkage: Literal["oas"] | None = "oas" if mixture.family.shrinks else None
    return mixture.fit(share(features), reg_covar=REG_COVAR, shrinkage=shrinkage, seed=seed)


class FailureDetector(nn.Module):
    """Refuses inputs that a classifier would get wrong, with a guaranteed rate of false alarms.

    Args:
        classifier: any module from a batch to logits (N, C); it stays in evaluation mode in here and is not changed.
        n_components: K of the mixtures of the default score, 10 unless given.
        layers: names of layers to take features from, "penultimate", "stages", "depths", or None for what the score is
            meant for; see `FeatureExtractor`.
        covariance_type: of the mixtures of the default score, "full" unless given.
        score: a score, with its own options, or None for `Combined`, the best over all sources of failure.
        views: how many views of an image to look at, or their names, or None for those that the score is meant for.
            Each costs one pass of the classifier; 1 is the image alone, as is None for inputs that are no images: not
            of shape (N, C, H, W) with 1, 3 or 4 channels and sides of 5 pixels at least. A spectrogram of one channel
            looks like a gray image: say 1 for it, since its mirror image is time running backwards.
        calibration: what turns scores into p-values: `Calibration`, valid on average over calibration sets;
            `MondrianCalibration`, in every predicted class; `ConditionalCalibration`, for the calibration set at hand.
        alpha: the false alarm rate on inputs like those of the calibration set.
        seed: of the mixtures' initialisation.

    Raises:
        ValueError: an option out of range or unknown; one of the default score's beside a score.

    Examples:
        >>> x = torch.rand(800, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))  # yours, trained
        >>> detector = FailureDetector(classifier, n_components=2)
        >>> detector = detector.fit(x[:500].split(100)).calibrate(x[500:].split(100))
        >>> detector(5 * x[:3]).accept
        tensor([False, False, False])
    """

    extractor: FeatureExtractor
    score: Score
    calibration: Calibration | MondrianCalibration
    examples: Examples
    valid_range: ValidRange

    def __init__(
        self,
        classifier: nn.Module,
        n_components: int | None = None,
        *,
        layers: Sequence[str] | str | None = None,
        covariance_type: str | None = None,
        score: Score | None = None,
        views: int | Sequence[str] | None = None,
        calibration: Calibration | MondrianCalibration | None = None,
        alpha: float = 0.05,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, kind, how in (
            ("score", score, Score, "make_score"),
            ("calibration", calibration, nn.Module, "make_calibration"),
        ):
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"{name}: expected an object; got {value!r}: give {how}({value!r}), or make one")
        given = {"n_components": n_components, "covariance_type": covariance_type}
        options = {name: value for name, value in given.items() if value is not None}
        if score is not None and options:
            raise ValueError(
                f"{' and '.join(options)}: expected none beside a score, which has its own; got "
                f"{', '.join(f'{name}={value!r}' for name, value in options.items())} and score {score.name!r}: "
                "give them to the score"
            )
        self.score = make_score("combined", **options) if score is None else score
        if isinstance(views, int) and not 1 <= views <= len(self.score.views):
            raise ValueError(f"views: the score {self.score.name} has 1 to {len(self.score.views)}; got {views}")
        chosen = self.score.views[:views] if views is None or isinstance(views, int) else views
        self.extractor = FeatureExtractor(
            classifier,
            self.score.layers if layers is None else layers,
            pooling=self.score.pooling,
            views=chosen,
            reads=self.score.reads,
        )
        self.views_by_default = views is None
        self._chosen_views = self.extractor.views
        self.calibration = Calibration() if calibration is None else calibration
        self.examples = Examples()
        self.valid_range = ValidRange()
        self.alpha = alpha
        self.seed = seed
        self.n_fitted = self.n_kept = 0
        self.widths: dict[str, int] = {}
        self.precision = ""
        self._warned_of: set[str] = set()
        self._n_classes = 0
        self.register_load_state_dict_post_hook(leave_inference_mode)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_check_alpha)  # type: ignore[no-untyped-call]

    @property
    def alpha(self) -> float:
        """The false alarm rate on inputs like those of the calibration set; nothing is fitted again to change it.

        Raises, when set:
            ValueError: outside (0, 1), or, once calibrated, with too few calibration inputs to refuse anything.
        """
        return self._alpha

    @alpha.setter
    def alpha(self, alpha: float) -> None:
        self.calibration.target(alpha)
        self._alpha = float(alpha)

    @property
    def classifier(self) -> nn.Module:
        """The classifier, unchanged."""
        return self.extractor.classifier

    @property
    def device(self) -> torch.device:
        """Where the classifier is."""
        tensor = next(self.classifier.parameters(), next(self.classifier.buffers(), None))
        return torch.device("cpu") if tensor is None else tensor.device

    @property
    def n_classes(self) -> int:
        """C of the logits that it was fitted to; 0 before that."""
        return self._n_classes

    def __repr__(self) -> str:
        return summary(self)

    @property
    def dtype(self) -> torch.dtype:
        """In which it computes: float32, or float64 where it was fitted to such outputs or moved to that type."""
        return self.valid_range.largest.dtype

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or convert; only the classifier becomes narrower than float32."""
        for name, module in self.named_children():
            change = fn if name == "extractor" else at_least_float32(fn)
            module._apply(change, recurse)
        return self

    # ---- learning

    def outputs(self, batches: Iterable[Any]) -> Outputs:
        """Logits and features of all batches x or (x, ...), on the classifier's device; they grow with the batches.

        x is a tensor, a tuple of them for a classifier that takes several, or a mapping of them by name, as data
        collators make it, labels and all. Labels are ignored, unless the score was told to use them.

        Raises:
            ValueError: no batch at all, inputs in place of batches, or features that are not finite.
            TypeError: a batch whose inputs are no tensors.
        """
        parts = list(self._stream(batches))
        with torch.inference_mode(False):
            return Outputs.cat(parts)

    @torch.no_grad()
    def _stream(
        self, batches: Iterable[Any], *, together: bool = False, labels: bool | None = None
    ) -> Iterator[Outputs]:
        """`outputs`, batch by batch; what is wrong with them is raised at the end, together in all processes.

        Labels are taken where they are asked for, or by default where the score ever wants them and there are some.
        """
        check_loader(batches)
        optional = self.score.ever_needs_labels
        device = self.device
        finite = FiniteCheck()
        for batch in batches:
            x = changed(inputs_of(batch), lambda value: value.to(device))
            if self.views_by_default and not self.widths:
                self.extractor.views = self._chosen_views if is_image(x) else ("identity",)
            outputs = self.extractor(x)
            if (optional and has_labels(batch)) if labels is None else labels:
                outputs = outputs._replace(labels=labels_of(batch).to(device))
            finite.add(outputs)
            yield outputs.with_keys_of(x)
        finite.check(together=together)

    def fit(self, loader: Iterable[Any], fitter: Fitter | None = None) -> Self:
        """Fit the score to the features of the loader's inputs, or of a random sample of them where they are many.

        The sample, see `gmm_torch.detection.streaming.sample`, has half a gigabyte at most, and depends neither on the
        order of the inputs nor on batches. Where there are several processes, each with a loader of its own, it is
        drawn of the inputs of all, and each process ends with the same detector.

        Args:
            loader: batches x or (x, ...), read once; labels are ignored.
            fitter: fits a mixture to features in place; the mixture's own `fit` by default. In several processes each
                is given all the features.

        Returns:
            self, no longer calibrated.

        Raises:
            ValueError: an empty loader, features that are not finite, fewer than three inputs. Few inputs give fewer
                components than asked for: one for every twenty.
        """
        sample = Sample()
        for outputs in self._stream(loader, together=True, labels=None if self.score.needs_labels else False):
            sample.add(outputs)
        drawn = sample.draw(together=True)
        return self.fit_outputs(drawn.outputs, fitter, drawn.n_given)

    @learning
    def fit_outputs(self, outputs: Outputs, fitter: Fitter | None = None, n_given: int | None = None) -> Self:
        """`fit`, from outputs that are already there, drawn from those of `n_given` inputs.

        A score that ranks among reference inputs learns from all but a fifth of them, 300 at most, and ranks among
        those until `calibrate` brings others. They are drawn by what they are, so no order matters.
        """
        widths = {layer: value.shape[-1] for layer, value in outputs.features.items()}
        n = len(outputs.logits)
        n_held_out = min(self.score.n_reference, max(2, int(n * HELD_OUT_SHARE)))
        if n <= n_held_out:
            raise ValueError(f"fitting inputs: expected at least {n_held_out + 1}; got {n}: give more")
        self._build(widths, outputs.logits.shape[-1])
        self.to(outputs.logits.device)
        outputs = outputs.sorted_by_content()
        learned, held_out = outputs.rows(slice(n_held_out, None)), outputs.rows(slice(n_held_out))
        self.score.fit(learned, fitter or partial(fit_mixture, seed=self.seed))
        if n_held_out:
            self.score.hold_out(in_chunks(self.score.statistics, held_out))
        warn_of_unused_components(self.score.models(), held_out if n_held_out else outputs)
        self.examples.build(self.score.models(), self._n_classes)
        self.examples.fit(self.score.models(), outputs)
        self.valid_range.fit(outputs)
        self.calibration = self.calibration.fresh().to(outputs.logits.device)
        self.n_fitted, self.n_kept = n if n_given is None else n_given, n
        self._calibrated_in("")
        return self

    def _calibrated_in(self, precision: str) -> None:
        self.precision = precision
        self._warned_of.clear()

    def _build(self, widths: dict[str, int], n_classes: int) -> None:
        self.widths, self._n_classes = widths, n_classes
        self.score.build(widths, len(self.extractor.views), n_classes)
        self.valid_range.build(len(widths))

    def calibrate(self, loader: Iterable[Any]) -> Self:
        """Take the scores of held-out inputs, which neither the classifier nor the mixture may have seen.

        Raises:
            ValueError: an empty loader, or too few inputs for alpha; the message says how many it takes.
            NotFittedError: before `fit`.
        """
        self._check_fitted()
        chunks = Chunks(self.reduce)
        for outputs in self._stream(loader, together=True, labels=self.score.needs_labels_to_calibrate):
            chunks.add(outputs)
        return self.calibrate_reduced(Reduced.cat(chunks.end()).gathered())

    def calibrate_outputs(self, outputs: Outputs) -> Self:
        """`calibrate`, from outputs that are already there."""
        self._check_fitted()
        return self.calibrate_reduced(Reduced.cat([self.reduce(part) for part in outputs.chunks(CHUNK)]))

    @learning
    def reduce(self, outputs: Outputs) -> Reduced:
        """What `calibrate` keeps of inputs: the statistics of the score, and a few numbers more."""
        outputs = outputs.to(self.dtype)
        prediction, inside = outputs.own_logits.argmax(-1), self.valid_range(outputs)
        return Reduced(self.score.statistics(outputs), prediction, inside, outputs.own_keys, outputs.precision)

    @torch.inference_mode(False)
    @torch.no_grad()
    def calibrate_reduced(self, reduced: Reduced) -> Self:
        """`calibrate`, from what `reduce` kept.

        A score that ranks among reference inputs gets a third of them for that, fewer where the calibration needs
        them, and is calibrated on the others. They are drawn by what they are, so no order matters, and the score is
        fixed before the others are ranked, so the p-value is valid for new inputs drawn as they were. Where they are
        few, fitting inputs that were held out join the reference.
        """
        n, outside = len(reduced.prediction), int((~reduced.inside).sum())
        if outside:
            raise ValueError(
                f"calibration inputs: expected numbers like those of the fitting inputs; {outside} of {n} give logits "
                "or features that are not finite or a thousand times larger: look for such inputs, and leave them out "
                "if they are no good ones"
            )
        if self.score.n_reference:
            order = reduced.shuffled()
            self.calibration.require(self.alpha, n)  # before the reference of an earlier calibration is lost
            n_reference = min(int(n * REFERENCE_SHARE), n - self.calibration.smallest(self.alpha), MAX_REFERENCE)
            self.score.set_reference(reduced.rows(order[:n_reference]).statistics)
            reduced = reduced.rows(order[n_reference:])
        with full_precision(reduced.statistics.device):
            score = self.score.combine(reduced.statistics)
        self.calibration.fit(score, self.alpha, predictions=reduced.prediction)
        self._calibrated_in(reduced.precision)
        return self

    def _check_fitted(self) -> None:
        if not self.widths:
            raise NotFittedError("the detector has not been fitted yet: call fit(loader) first")

    # ---- judging

    def forward(self, x: Inputs) -> Verdict:
        """Verdict on a batch, as `FeatureExtractor` takes it; the score is differentiable in x, the p-value is not.

        Raises:
            NotFittedError: before `fit` and `calibrate`.
        """
        self._check_fitted()
        return self.verdict(self.extractor(inputs_given(x, self.classifier)))

    @precisely
    def verdict(self, outputs: Outputs, score: Tensor | None = None) -> Verdict:
        """`forward`, from outputs that are already there, and their scores (N,) where these are too."""
        self._check_fitted()
        outputs = outputs.to(self.dtype)
        self._check_precision(outputs)
        score = self._bounded(self.score(outputs) if score is None else score, outputs)
        logits = outputs.own_logits
        prediction = logits.argmax(-1)
        p_value = self.calibration.p_value(score, prediction)
        accept = self.calibration.accepts(score, prediction, alpha=self.alpha)
        return Verdict(logits, prediction, score, p_value, accept)

    def margin(self, x: Inputs) -> Tensor:
        """Score less the threshold, (N,): accepted where it is >= 0. Differentiable, unlike the p-value."""
        self._check_fitted()
        return self._margin(self.extractor(inputs_given(x, self.classifier)).to(self.dtype))

    @precisely
    def _margin(self, outputs: Outputs) -> Tensor:
        self._check_precision(outputs)
        return self._bounded(self.score(outputs), outputs) - self.threshold(outputs.own_logits.argmax(-1))

    def threshold(self, prediction: Tensor) -> Tensor:
        """The score at and above which an input is accepted, (N,), for predicted classes (N,)."""
        threshold = self.calibration.threshold(self.alpha)
        return threshold[prediction] if threshold.dim() else threshold.expand(prediction.shape)

    def _check_precision(self, outputs: Outputs) -> None:
        """Warn, once for each, of outputs in another precision than those of the calibration inputs."""
        found = outputs.precision
        if not (found and self.precision) or found == self.precision or found in self._warned_of:
            return
        self._warned_of.add(found)
        warnings.warn(
            f"classifier: expected outputs in {self.precision}, as at calibration; got {found}: p-values are valid as "
            "far as rounding leaves the scores alike; calibrate in this precision to be sure",
            PrecisionWarning,
            stacklevel=2,
        )

    def _bounded(self, score: Tensor, outputs: Outputs) -> Tensor:
        """Minus infinity where an input is outside the valid range or the score is not a number: nothing is lower."""
        score = torch.nan_to_num(score, nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        return torch.where(self.valid_range(outputs), score, -torch.inf)

    # ---- explaining

    @torch.no_grad()
    def explain(
        self, x: Inputs, class_names: Sequence[str] | None = None, *, n_features: int = 5, n_nearest: int = 5
    ) -> Explanation:
        """Why the inputs of a batch are refused or accepted; `print(detector.explain(x)[0])` says it in words.

        Args:
            x: a batch of N inputs; one that is not finite is explained as that.
            class_names: index -> name; numbers where None.
            n_features: how many of the features that contribute most to the distance are listed.
            n_nearest: how many of the nearest fitting inputs; up to a thousand of them are kept to choose from. 0 takes
                half the time.

        Returns:
            verdict, probabilities in each view, p-values of the score's parts, and of each mixture: the component, its
            make-up and error rate, the features that contribute most, the nearest fitting inputs.

        Raises:
            NotFittedError: before `fit` and `calibrate`.
            ValueError: fewer class names than classes.
        """
        self._check_fitted()
        outputs = self.extractor(inputs_given(x, self.classifier))
        return self.explain_outputs(outputs, class_names, n_features=n_features, n_nearest=n_nearest)

    @torch.no_grad()
    @precisely
    def explain_outputs(
        self, outputs: Outputs, class_names: Sequence[str] | None = None, *, n_features: int = 5, n_nearest: int = 5
    ) -> Explanation:
        """`explain`, from outputs that are already there."""
        self._check_fitted()
        if class_names is not None and len(class_names) < self._n_classes:
            raise ValueError(f"class_names: expected {self._n_classes}, one a class; got {len(class_names)}")
        outputs = outputs.to(self.dtype)
        breakdown = self.score.breakdown(outputs)
        return explain(
            self.score,
            self.extractor,
            self.examples,
            outputs,
            self.verdict(outputs, breakdown.score),
            breakdown,
            n_features=n_features,
            n_nearest=n_nearest,
            class_names=class_names,
        )

    def component_report(self, loader: Iterable[Any], *, confidence: float = 0.95) -> dict[str, ComponentReport]:
        """Where the classifier errs: the components of each mixture, ranked by error rate on labelled inputs.

        `explain` knows the error rates of the components from then on. No verdict depends on them.

        Args:
            loader: batches (x, label, ...), label (n,) int64 from 0 to C - 1; inputs that the classifier was not
                trained on, or the error rates are too low.
            confidence: of the intervals.

        Returns:
            by name of the mixture, as in `explain`; nothing for a score without mixtures.

        Raises:
            NotFittedError: before `fit`.
            ValueError: an empty loader, batches without labels, labels out of range, features that are not finite.
        """
        self._check_fitted()
        labels: list[Tensor] = []

        def watched() -> Iterator[Any]:
            for batch in loader:
                labels.append(labels_of(batch))
                yield batch

        chunks = Chunks(self.components)
        for outputs in self._stream(watched(), together=True):
            chunks.add(outputs)
        component, prediction = (torch.cat(each) for each in zip(*chunks.end(), strict=True))
        found = (component, prediction, torch.cat(labels).to(prediction))
        return self.report_components(*map(gather_rows, found), confidence=confidence)

    @learning
    def components(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        """What `component_report` keeps of inputs: components (N, J) of the J mixtures, and predicted classes (N,)."""
        outputs = outputs.to(self.dtype)
        return self.score.components(outputs), outputs.own_logits.argmax(-1)

    @torch.inference_mode(False)
    @torch.no_grad()
    def report_components(
        self, component: Tensor, prediction: Tensor, labels: Tensor, *, confidence: float = 0.95
    ) -> dict[str, ComponentReport]:
        """`component_report`, from what `components` kept and labels (N,)."""
        labels = labels.to(prediction)
        if labels.shape != prediction.shape:
            raise ValueError(f"labels: expected {tuple(prediction.shape)}; got {tuple(labels.shape)}")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self._n_classes:
            raise ValueError(
                f"labels: expected 0 to {self._n_classes - 1}; got {int(labels.min())} to {int(labels.max())}: "
                "leave inputs without a class out"
            )
        self.examples.observe(component, prediction, labels)
        return {
            name: component_report(own, prediction, labels, model.mixture.n_components, confidence)
            for own, (name, model) in zip(component.unbind(1), self.score.models().items(), strict=True)
        }

    # ---- states and files

    def get_extra_state(self) -> Tensor:
        """What `load_state_dict` must know before it can make room for the tensors: JSON as bytes, (B,) uint8."""
        sizes = {
            "layers": self.extractor.layers,
            "found_by": self.extractor.found_by,
            "statistics": self.extractor.statistics_by_name,
            "views": list(self.extractor.views),
            "widths": self.widths,
            "n_classes": self._n_classes,
            "n_fitted": self.n_fitted,
            "n_kept": self.n_kept,
            "precision": self.precision,
        }
        return torch.frombuffer(bytearray(json.dumps(sizes).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing is left to do: room is made before the parts of the detector are loaded."""

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        state = state_dict.get(f"{prefix}_extra_state")
        if state is not None:
            sizes = json.loads(bytes(state.tolist()))
            self.extractor.layers, self.extractor.views = list(sizes["layers"]), tuple(sizes["views"])
            self.extractor.know(str(sizes["found_by"]), dict(sizes["statistics"]))
            self.n_fitted, self.n_kept = int(sizes["n_fitted"]), int(sizes["n_kept"])
            self._calibrated_in(str(sizes["precision"]))
            if sizes["widths"]:
                own = part_of(dict(state_dict), prefix.removesuffix("."))
                self._make_room(dict(sizes["widths"]), int(sizes["n_classes"]), own)
                self.to(self.device)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _make_room(self, widths: dict[str, int], n_classes: int, tensors: dict[str, Tensor]) -> None:
        with at_most(self.score, _most_components(part_of(tensors, "score"))):
            self._build(widths, n_classes)
        self.score.reserve(_shapes(part_of(tensors, "score")))
        self.examples.build(self.score.models(), n_classes)
        self.examples.reserve(_shapes(part_of(tensors, "examples")))
        for name, part in self._parts().items():
            match_types(part, part_of(tensors, name))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything but the classifier to a safetensors file, whole or not at all.

        Raises:
            NotFittedError: before `fit` and `calibrate`.
        """
        self._check_fitted()
        self.calibration.threshold(self.alpha)  # there is one
        self.calibration.target(self.alpha)
        description = Description(
            layers=self.extractor.layers,
            found_by=self.extractor.found_by,
            statistics=self.extractor.statistics_by_name,
            views=list(self.extractor.views),
            widths=self.widths,
            n_classes=self._n_classes,
            score={"name": self.score.name, "options": self.score.options()},
            calibration={"name": self.calibration.name, "options": self.calibration.options()},
            alpha=self.alpha,
            seed=self.seed,
            precision=self.precision,
            n_fitted=self.n_fitted,
            n_kept=self.n_kept,
            classifier=fingerprint(self.classifier),
            versions={"torch": torch.__version__},
        )
        parts = {**self._parts(), "calibration": self.calibration}
        tensors = {
            f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()
        }
        write_detector(path, DetectorFile(description.to_json(), tensors))

    def _parts(self) -> dict[str, nn.Module]:
        """What is sized by the description of a file, by the name that its tensors begin with there."""
        return {"score": self.score, "examples": self.examples, "valid_range": self.valid_range}

    @classmethod
    def load(cls, path: str | os.PathLike[str], classifier: nn.Module, *, strict: bool = True) -> Self:
        """Read a detector for `classifier`, onto the classifier's device.

        Nothing in the file can run, and it takes no more memory than a few times its size, whatever it asks for.

        Args:
            path: written by `save`.
            classifier: the one that the detector was fitted to.
            strict: refuse a classifier whose weights differ from those at the time of `save`; its p-values would
                mean nothing. False is for weights that were merely stored in another precision.

        Raises:
            FileNotFoundError, FileFormatError: see `read_detector`.
            ValueError: the classifier is not the one that the detector was fitted to.
        """
        file, what = read_detector(path), f"detector file: {path}"
        try:
            description = Description.from_json(file.spec)
        except ValueError as error:
            raise FileFormatError(f"{what} has a damaged description ({error})") from error
        actual, stored = fingerprint(classifier), description.classifier
        for part, meaning in (("structure", "layers or shapes"), ("weights", "weights")):
            if actual[part] != stored[part] and (strict or part == "structure"):
                raise ValueError(
                    f"classifier: its {meaning} are not those the detector {path} was fitted to; load that "
                    "classifier's checkpoint, or fit and calibrate a detector for this one"
                )
        try:
            with torch.device("meta"):  # where sizes cost no memory
                blank = cls._described(classifier, description, file.tensors)
            for part, module in blank._parts().items():
                check_fit(module, part_of(file.tensors, part), what)
            detector = cls._described(classifier, description, file.tensors)
            for part, module in detector._parts().items():
                load_exactly(module, part_of(file.tensors, part), what)
            detector.calibration.load_state_dict(part_of(file.tensors, "calibration"))
            detector._check_loaded()
        except FileFormatError:
            raise
        except Exception as error:  # what a description can ask for has no bounds
            raise FileFormatError(f"{what}: no detector can be made of it ({error})") from error
        leave_inference_mode(detector.to(detector.device))
        return detector

    @classmethod
    def _described(cls, classifier: nn.Module, description: Description, tensors: dict[str, Tensor]) -> Self:
        """An empty detector with room for stored tensors."""
        detector = cls(
            classifier,
            layers=description.layers,
            score=make_score(description.score["name"], **description.score["options"]),
            views=description.views,
            calibration=make_calibration(description.calibration["name"], **description.calibration["options"]),
            alpha=description.alpha,
            seed=description.seed,
        )
        detector.extractor.know(description.found_by, description.statistics)
        detector.n_fitted, detector.n_kept = description.n_fitted, description.n_kept
        detector.precision = description.precision
        detector._make_room(description.widths, description.n_classes, tensors)
        return detector

    def _check_loaded(self) -> None:
        """Raise where stored values contradict each other."""
        for module in self.score.modules():
            if isinstance(module, GaussianMixture):
                module.require_fitted()
        self.examples.check(self.n_fitted, self._n_classes)
        self.calibration.threshold(self.alpha)  # there is one
        self.calibration.target(self.alpha)


def _check_alpha(detector: FailureDetector, _: Any) -> None:
    """A state's calibration scores must suffice for the alpha of the detector that takes them."""
    detector.calibration.target(detector.alpha)


def _most_components(tensors: dict[str, Tensor]) -> int:
    """How many components the largest stored mixture has; one where there is none."""
    return max((len(value) for name, value in tensors.items() if name.endswith("logits") and value.dim()), default=1)


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}
