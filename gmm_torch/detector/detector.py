"""The failure detector: classifier, features, score, calibration, verdict. Read this first."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from gmm_torch.checks import check_count, check_whole
from gmm_torch.conformal.calibration import Calibration, Unlabelled
from gmm_torch.detector.component_report import ComponentReport, check_labels, component_report
from gmm_torch.detector.detector_file import load_detector, save_detector
from gmm_torch.detector.explanation import Explanation, explain
from gmm_torch.detector.hub import OnHub
from gmm_torch.detector.parts import DetectorParts
from gmm_torch.detector.reduced import Reduced
from gmm_torch.detector.seen_inputs import n_among
from gmm_torch.detector.verdict import Verdict
from gmm_torch.devices import full_precision
from gmm_torch.errors import CalibrationWarning, warn
from gmm_torch.features.adapter import NONE, Adapter
from gmm_torch.features.augmentations import is_image
from gmm_torch.features.chunks import CHUNK, Chunks, in_chunks
from gmm_torch.features.extractor import FeatureExtractor
from gmm_torch.features.features import Features, check_sizes
from gmm_torch.features.finite_check import FiniteCheck, check_learnable
from gmm_torch.features.input_format import KnownFormat
from gmm_torch.features.inputs import (
    InputKeys,
    Inputs,
    changed,
    check_loader,
    has_labels,
    inputs_given,
    inputs_of,
    labels_of,
    tensors_of,
)
from gmm_torch.features.precision import learning, precisely
from gmm_torch.features.sample import Sample
from gmm_torch.scores import Fitter, Score, make_score
from gmm_torch.scores.fitting import fit_mixture
from gmm_torch.scores.usage import warn_of_unused_components

# Of the fitting inputs, and of the calibration inputs, so many at most are a reference for scores that need one.
REFERENCE_SHARE, MAX_REFERENCE = 1 / 3, 10_000
# Calibration inputs of which more were fitted to are a mistake; rows of a few columns may be equal by chance.
SEEN_SHARE, DOUBTFUL_SHARE = 0.9, 0.02


class FailureDetector(OnHub, DetectorParts):
    """Refuses inputs that a classifier would get wrong, with a guaranteed rate of false alarms.

    A detector is for one thread at a time, and so is its classifier meanwhile, on which it puts hooks that it takes off
    again. Give each thread a deep copy, or let them take turns.

    Args:
        classifier: any module from a batch to logits (N, C); it stays in evaluation mode in here and is not changed.
        n_components: K of the mixtures of the default score, `N_COMPONENTS` = 10 unless given.
        layers: names of layers to take features from, "penultimate", "stages", "depths", or None for what the score is
            meant for; see `FeatureExtractor`.
        covariance_type: of the mixtures of the default score, "full" unless given.
        score: a score, with its own options, or None for `Combined`, the best over all sources of failure.
        views: how many views of an image to look at, or their names, or None for those that the score is meant for.
            Each costs one pass of the classifier; 1 is the image alone, as is None for inputs that are no images: not
            of shape (N, C, H, W) with 1, 3 or 4 channels and sides of 5 pixels at least. A spectrogram of one channel
            looks like a gray image: say 1 for it, since its mirror image is time running backwards.
        calibration: what turns scores into p-values: `Calibration`, valid on average over calibration sets;
            `MondrianCalibration`, in every predicted class; `ConditionalCalibration`, for the calibration set at hand;
            `WeightedCalibration` and `LabelShiftCalibration`, where inputs come from elsewhere.
        alpha: at most this share of inputs like those of the calibration set is refused, on average over such sets.
        seed: of the mixtures' initialisation.
        adapter: from a batch to the classifier's inputs, and from its output to logits, where they are not those that
            `fit` and `FeatureExtractor` take as they are; no file holds it.

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

    def __init__(
        self,
        classifier: nn.Module,
        n_components: int | None = None,
        *,
        layers: Sequence[str] | str | None = None,
        covariance_type: str | None = None,
        score: Score | None = None,
        views: int | Sequence[str] | None = None,
        calibration: Calibration | None = None,
        alpha: float = 0.05,
        seed: int = 0,
        adapter: Adapter | None = None,
    ) -> None:
        for name, value, kind in (("score", score, Score), ("calibration", calibration, Calibration)):
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"{name}: expected an object; got {value!r}: give make_{name}({value!r}), or make one")
        given = {"n_components": n_components, "covariance_type": covariance_type}
        options = {name: value for name, value in given.items() if value is not None}
        if score is not None and options:
            got = ", ".join(f"{name}={value!r}" for name, value in options.items())
            raise ValueError(
                f"{' and '.join(options)}: expected none beside a score, which has its own; got {got} and score "
                f"{score.name!r}: give them to the score"
            )
        score = make_score("combined", **options) if score is None else score
        check_whole("seed", seed)
        extractor = FeatureExtractor(
            classifier,
            score.layers if layers is None else layers,
            pooling=score.pooling,
            views=score.chosen_views(views),
            reads=score.reads,
            adapter=NONE if adapter is None else adapter,
        )
        super().__init__(extractor, score, Calibration() if calibration is None else calibration, alpha, seed)
        self.views_by_default = views is None
        self._chosen_views = extractor.views

    # ---- learning

    def outputs(self, batches: Iterable[Any]) -> Features:
        """Logits and features of all batches x or (x, ...), on the classifier's device: all of them, however many.

        x is a tensor, a tuple of them for a classifier that takes several, or a mapping of them by name, as data
        collators make it, labels and all. Labels are ignored, unless the score was told to use them.

        Raises:
            ValueError: no batch at all, inputs in place of batches, or features that are not finite.
            TypeError: a batch whose inputs are no tensors.
        """
        parts = list(self._stream(batches, labels=None if self.score.ever_needs_labels else False, together=False))
        with torch.inference_mode(False):
            return Features.cat(parts)

    @torch.no_grad()
    def _stream(self, batches: Iterable[Any], *, labels: bool | None, together: bool = True) -> Iterator[Features]:
        """`outputs`, batch by batch; labels are taken (True), left (False), or taken where there are some (None).

        Features that are not finite are told after the last batch; in all processes, if `together`.
        """
        check_loader(batches)
        device, adapter, views = self.device, self.extractor.adapter, self.extractor.views
        is_open = self.views_by_default and not self.widths  # then what is no image has one view
        finite, keys = FiniteCheck(), InputKeys()
        for batch in batches:
            x = changed(inputs_of(batch, adapter), lambda value: value.to(device))
            outputs = self.extractor(x, views[:1] if is_open and not is_image(x) else None)
            if has_labels(batch, adapter) if labels is None else labels:
                outputs = outputs._replace(labels=labels_of(batch, adapter).to(device))
            finite.add(outputs)
            yield outputs._replace(keys=keys(x))
        finite.check(together=together)

    def fit(self, loader: Iterable[Any], fitter: Fitter | None = None) -> Self:
        """Fit the score to the features of the loader's inputs, or of a random sample of them where they are many.

        The sample, see `gmm_torch.features.sample`, has half a gigabyte at most, and depends neither on the
        order of the inputs nor on batches. Where there are several processes, each with a loader of its own, it is
        drawn of the inputs of all, and each process ends with the same detector.

        The detector is no longer calibrated.

        Args:
            loader: batches x or (x, ...), read once; labels are ignored.
            fitter: fits a mixture to features in place; the mixture's own `fit` by default. In several processes each
                is given all the features.

        Raises:
            ValueError: an empty loader, features that are not finite, fewer than three inputs. Few inputs give fewer
                components than asked for: one for every twenty.
        """
        sample = Sample()
        for outputs in self._stream(loader, labels=None if self.score.needs_labels else False):
            sample.add(outputs)
        drawn = sample.draw(together=True)
        return self.fit_outputs(drawn.outputs, fitter, drawn.n_given)

    @learning
    def fit_outputs(self, outputs: Features, fitter: Fitter | None = None, n_given: int | None = None) -> Self:
        """`fit`, from outputs that are already there, drawn from those of `n_given` inputs.

        A score that ranks among reference inputs learns from all but a fifth of them, 300 at most, and ranks among
        those until `calibrate` brings others. They are drawn by what they are, so no order matters.
        """
        check_learnable(outputs, labels=self.score.needs_labels)
        n, n_views, n_classes = outputs.logits.shape
        views = self.extractor.views
        if self.views_by_default:
            views = self._chosen_views[: None if n_views > 1 else 1]
        widths = {layer: value.shape[-1] for layer, value in outputs.layers.items()}
        check_sizes(outputs, widths, len(views), n_classes)
        n_held_out = self.held_out_of(n)
        if n <= n_held_out:
            raise ValueError(f"fitting inputs: expected at least {n_held_out + 1}; got {n}: give more")
        self.extractor.views = views
        self.build(widths, n_classes)
        self.to(outputs.logits.device)
        outputs = outputs.sorted_by_content()
        learned, held_out = outputs.rows(slice(n_held_out, None)), outputs.rows(slice(n_held_out))
        self.score.fit(learned, fitter or partial(fit_mixture, seed=self.seed))
        if n_held_out:
            self.score.hold_out(in_chunks(self.score.statistics, held_out))
        warn_of_unused_components(self.score.models(), held_out if n_held_out else outputs)
        self.examples.build(self.score.models(), self.n_classes).fit(self.score.models(), outputs)
        self.valid_range.fit(outputs)
        self.calibration = self.calibration.fresh().to(outputs.logits.device)
        self.n_fitted, self.n_kept = n if n_given is None else n_given, n
        self.seen.fit(outputs.own_keys[: n if self.score.state_dict() else 0])
        self.calibrated_in("", KnownFormat())
        self.know_weights()
        return self

    def calibrate(self, loader: Iterable[Any]) -> Self:
        """Calibrate on held-out inputs, which neither the classifier nor the mixture may have seen.

        Raises:
            NotFittedError: before `fit`.
            ValueError: an empty loader, the inputs that it was fitted to, outputs that are not finite or far beyond
                those of the fitting inputs, no labels for a score that learns from them, or too few inputs for alpha;
                the message says how many it takes.
        """
        return self.calibrate_reduced(self._reduced(loader, labels=self._calibrates_with_labels))

    @property
    def _calibrates_with_labels(self) -> bool:
        return self.score.needs_labels_to_calibrate or self.calibration.needs_labels

    def adapt(self, deployment: Iterable[Any], reference: Iterable[Any]) -> Self:
        """Let a calibration with weights learn how inputs at deployment differ from those it is calibrated on.

        The detector is no longer calibrated.

        Args:
            deployment: batches x or (x, ...) of inputs as they come, without labels, failures among them or not.
            reference: batches of inputs from where the calibration inputs come from, but others: calibration inputs
                are ranked with weights that were fixed before. (x, label) for `LabelShiftCalibration`.

        Raises:
            NotFittedError: before `fit`.
            TypeError: the calibration has no weights.
            ValueError: an empty loader, too few inputs, no labels where they are needed, outputs that are not finite
                or far beyond those of the fitting inputs.
        """
        self.check_fitted()
        known = self._reduced(reference, labels=self.calibration.needs_labels)
        return self.adapt_reduced(self._reduced(deployment, labels=False), known)

    @torch.inference_mode(False)
    @torch.no_grad()
    def adapt_reduced(self, deployment: Reduced, reference: Reduced) -> Self:
        """`adapt`, from what `reduce` kept.

        Deployment inputs far beyond the fitting inputs are left out: they are refused whatever they weigh.
        """
        check_inside(reference, "reference")
        deployment = deployment.rows(deployment.inside)
        samples = [Unlabelled(each.statistics, each.prediction) for each in (reference, deployment)]
        self.calibration.adapt(*samples, labels=reference.labels)
        self.seen.adapt(reference.keys)
        return self

    def calibrate_outputs(self, outputs: Features) -> Self:
        """`calibrate`, from outputs that are already there."""
        self.check_fitted()
        check_learnable(outputs, labels=self._calibrates_with_labels)
        return self.calibrate_reduced(Reduced.cat([self.reduce(part) for part in outputs.chunks(CHUNK)]))

    def _reduced(self, loader: Iterable[Any], *, labels: bool) -> Reduced:
        """What `reduce` keeps of the loader's inputs, those of all processes together; one pass over them."""
        self.check_fitted()
        chunks = Chunks(self.reduce)
        for outputs in self._stream(loader, labels=labels):
            chunks.add(outputs)
        return Reduced.cat(chunks.end()).gathered()

    @learning
    def reduce(self, outputs: Features) -> Reduced:
        """What `calibrate` and `component_report` keep of inputs: a few numbers each, whatever the widths.

        Raises:
            ValueError: outputs of other layers, widths, views or classes than those of the fit.
        """
        check_sizes(outputs, self.widths, len(self.extractor.views), self.n_classes)
        outputs = outputs.to(self.dtype)
        return Reduced(
            statistics=self.score.statistics(outputs),
            components=self.score.components(outputs),
            prediction=outputs.own_logits.argmax(-1),
            inside=self.valid_range(outputs),
            keys=outputs.own_keys,
            labels=outputs.labels,
            precision=outputs.precision,
            format=outputs.format,
        )

    @torch.inference_mode(False)
    @torch.no_grad()
    def calibrate_reduced(self, reduced: Reduced) -> Self:
        """`calibrate`, from what `reduce` kept.

        A score that ranks among reference inputs gets a third of them for that, fewer where the calibration needs
        them, and is calibrated on the others. They are drawn by what they are, so no order matters, and the score is
        fixed before the others are ranked, so the p-value is valid for new inputs drawn as they were. Where they are
        few, fitting inputs that were held out join the reference.
        """
        n = len(reduced.prediction)
        check_inside(reduced, "calibration")
        share, known = self.seen.share_fitted(reduced.keys, self.n_kept / max(1, self.n_fitted))
        if share > SEEN_SHARE:
            raise ValueError(
                f"calibration inputs: expected others than the detector was fitted to; got {n}, of which it was fitted "
                f"to {known}: hold some out, since the score of what was fitted to is higher than that of new inputs"
            )
        if share > DOUBTFUL_SHARE:
            warn(
                f"calibration inputs: expected others than the detector was fitted to; got {n}, of which {known} are "
                "equal to some of those: leave them out, since their scores are higher than those of new inputs, of "
                "which then more than alpha are refused",
                CalibrationWarning,
            )
        if shared := n_among(reduced.keys[:, 1], self.seen.reference):  # of what `adapt` was given, if it was
            raise ValueError(
                f"calibration inputs: expected none of the reference inputs of `adapt`; got {shared} of {n}: give "
                "others to one of the two, since weights must be fixed before calibration inputs are ranked"
            )
        if self.score.n_reference:
            order = reduced.shuffled()
            self.calibration.require(self.alpha, n)  # before the reference of an earlier calibration is lost
            n_reference = min(int(n * REFERENCE_SHARE), n - self.calibration.smallest(self.alpha), MAX_REFERENCE)
            self.score.set_reference(reduced.rows(order[:n_reference]).statistics)
            reduced = reduced.rows(order[n_reference:])
        with full_precision(reduced.statistics.device):
            score = self.score.combine(reduced.statistics)
        log_weight = self.calibration.log_weights(Unlabelled(reduced.statistics, reduced.prediction), reduced.labels)
        self.calibration.fit(score, self.alpha, predictions=reduced.prediction, log_weight=log_weight)
        self.calibrated_in(reduced.precision, KnownFormat.of(reduced.format))
        self.know_weights()
        return self

    # ---- verdicts

    def forward(self, x: Inputs) -> Verdict:
        """Verdict on a batch, as `FeatureExtractor` takes it.

        A verdict is a decision: it holds no graph of the classifier, whatever the gradient mode. Logits and score are
        differentiable in inputs that ask for a gradient (`x.requires_grad_()`), and so is `margin`.

        Raises:
            NotFittedError: before `fit` and `calibrate`.
            ValueError: the classifier's weights have changed since `calibrate`; what writes to `.data` goes unnoticed
                until `save`.
        """
        self.check_fitted()
        x = inputs_given(x, self.classifier, self.extractor.adapter)
        wanted = any(value.requires_grad for value in tensors_of(x))
        with torch.no_grad() if torch.is_grad_enabled() and not wanted else nullcontext():
            return self.verdict(self.extractor(x))

    @precisely
    def verdict(self, outputs: Features, score: Tensor | None = None) -> Verdict:
        """`forward`, from outputs that are already there, and their scores (N,) where these are too."""
        self.check_fitted()
        self.check_weights()
        outputs = outputs.to(self.dtype)
        self.check_calibrated_for(outputs)
        score = self.bounded(self.score(outputs) if score is None else score, outputs)
        logits = outputs.own_logits
        given = self.beside(outputs)
        p_value = self.calibration.p_value(score, **given)
        accept = self.calibration.accepts(score, **given, alpha=self.alpha)
        return Verdict(logits, given["predictions"], score, p_value, accept)

    def margin(self, x: Inputs) -> Tensor:
        """Score less the threshold, (N,): accepted where it is >= 0. Differentiable, unlike the p-value."""
        self.check_fitted()
        return self._margin(self.extractor(inputs_given(x, self.classifier, self.extractor.adapter)).to(self.dtype))

    @precisely
    def _margin(self, outputs: Features) -> Tensor:
        self.check_calibrated_for(outputs)
        return self.bounded(self.score(outputs), outputs) - self.threshold(**self.beside(outputs))

    # ---- explaining

    @torch.no_grad()
    def explain(
        self, x: Inputs, class_names: Sequence[str] | None = None, *, n_features: int = 5, n_nearest: int = 5
    ) -> Explanation:
        """Why the inputs of a batch are refused or accepted; `print(detector.explain(x)[0])` says it in words.

        Args:
            x: a batch of N inputs; one that is not finite is explained as that.
            class_names: index -> name; those of the detector by default, numbers where it has none.
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
        self.check_fitted()
        outputs = self.extractor(inputs_given(x, self.classifier, self.extractor.adapter))
        return self.explain_outputs(outputs, class_names, n_features=n_features, n_nearest=n_nearest)

    @torch.no_grad()
    @precisely
    def explain_outputs(
        self, outputs: Features, class_names: Sequence[str] | None = None, *, n_features: int = 5, n_nearest: int = 5
    ) -> Explanation:
        """`explain`, from outputs that are already there."""
        self.check_fitted()
        check_count("n_features", n_features, at_least=0)
        check_count("n_nearest", n_nearest, at_least=0)
        class_names = self.class_names or None if class_names is None else class_names
        if class_names is not None and len(class_names) < self.n_classes:
            raise ValueError(f"class_names: expected {self.n_classes}, one a class; got {len(class_names)}")
        outputs = outputs.to(self.dtype)
        breakdown = self.score.breakdown(outputs)
        verdict = self.verdict(outputs, breakdown.score)
        return explain(self, outputs, verdict, breakdown, n_features, n_nearest, class_names)

    def component_report(self, loader: Iterable[Any], *, confidence: float = 0.95) -> dict[str, ComponentReport]:
        """Error rates of the classifier by component of each mixture, on labelled inputs, the highest first.

        `explain` knows the error rates of the components from then on. No verdict depends on them.

        Args:
            loader: batches (x, label, ...), label (n,) int64 from 0 to C - 1; inputs that the classifier was not
                trained on, or the error rates are too low.
            confidence: of the intervals.

        Returns:
            by name of the mixture, as in `explain`; nothing for a score without mixtures.

        Raises:
            NotFittedError: before `fit`.
            ValueError: an empty loader, batches without labels, labels out of range, outputs that are not finite.
        """
        return self.report_reduced(self._reduced(loader, labels=True), confidence=confidence)

    @torch.inference_mode(False)
    @torch.no_grad()
    def report_reduced(self, reduced: Reduced, *, confidence: float = 0.95) -> dict[str, ComponentReport]:
        """`component_report`, from what `reduce` kept of labelled inputs."""
        prediction, labels = reduced.prediction, check_labels(reduced.labels, reduced.prediction, self.n_classes)
        self.examples.observe(reduced.components, prediction, labels)
        return {
            name: component_report(own, prediction, labels, model.mixture.n_components, confidence)
            for own, (name, model) in zip(reduced.components.unbind(1), self.score.models().items(), strict=True)
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything but the classifier to a safetensors file, whole or not at all.

        Raises:
            NotFittedError: before `fit` and `calibrate`.
            ValueError: the classifier's weights have changed since `calibrate`; no file can hold `preprocessing` or
                `class_names`.
        """
        self.check_fitted()
        self.check_weights(exact=True)
        save_detector(self, path)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], classifier: nn.Module, *, strict: bool = True, adapter: Adapter | None = None
    ) -> Self:
        """Read a detector for `classifier`, onto the classifier's device.

        Nothing in the file can run, and it takes no more memory than a few times its size, whatever it asks for.

        Args:
            path: written by `save`.
            classifier, adapter: those that the detector was made with.
            strict: refuse a classifier whose weights differ from those at the time of `save`; its p-values would
                mean nothing. False is for weights that were merely stored in another precision.

        Raises:
            FileNotFoundError, FileFormatError: no file, or none that a detector can be made of.
            ValueError, TypeError: the classifier is not the one that the detector was fitted to, or no module.
        """
        return load_detector(cls, path, classifier, strict=strict, adapter=adapter)


def check_inside(reduced: Reduced, name: str) -> None:
    """Raise ValueError unless all inputs are inside the valid range."""
    n, outside = len(reduced.prediction), int((~reduced.inside).sum())
    if outside:
        raise ValueError(
            f"{name} inputs: expected numbers like those of the fitting inputs; {outside} of {n} give logits "
            "or features that are not finite or a thousand times larger: look for such inputs, and leave them out "
            "if they are no good ones"
        )
