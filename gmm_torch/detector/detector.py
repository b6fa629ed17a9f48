"""The failure detector: classifier, features, score, calibration, verdict. Read this first."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from gmm_torch.checks import check_count, check_whole
from gmm_torch.conformal import Calibration, Unlabelled, make_calibration
from gmm_torch.detector.component_report import ComponentReport, check_labels, component_report
from gmm_torch.detector.examples import Examples
from gmm_torch.detector.explanation import Explanation, explain
from gmm_torch.detector.hub import OnHub
from gmm_torch.detector.memory import SeenInputs, ValidRange, n_among
from gmm_torch.detector.plan import Plan
from gmm_torch.detector.statistics import Statistics
from gmm_torch.detector.summary import summary
from gmm_torch.detector.verdict import Verdict
from gmm_torch.detector.weights import KnownWeights, check_classifier, fingerprint
from gmm_torch.devices import full_precision
from gmm_torch.errors import (
    CalibrationWarning,
    FileFormatError,
    InputsWarning,
    NotFittedError,
    PrecisionWarning,
    warn,
)
from gmm_torch.features.adapter import NONE, Adapter, check_network
from gmm_torch.features.augmentations import is_image
from gmm_torch.features.extractor import FeatureExtractor
from gmm_torch.features.features import CHUNK, Chunks, Features, FiniteCheck, check_learnable, check_sizes, in_chunks
from gmm_torch.features.inputs import (
    InputKeys,
    Inputs,
    KnownFormat,
    changed,
    check_loader,
    has_labels,
    inputs_given,
    inputs_of,
    labels_of,
    tensors_of,
    warning_of,
)
from gmm_torch.features.modes import at_least_float32, learning, leave_inference_mode, precisely
from gmm_torch.features.sample import Sample
from gmm_torch.mixture import GaussianMixture
from gmm_torch.mixture.density import is_traced
from gmm_torch.scores import Fitter, Score, make_score
from gmm_torch.scores.feature_mixture import fit_mixture, warn_of_unused_components

# Of the fitting inputs, a share at most, that a score ranks its parts among before `calibrate` brings others.
HELD_OUT_SHARE = 1 / 5
# Share and number of the calibration inputs, at most, that are a reference for scores that need one.
REFERENCE_SHARE, MAX_REFERENCE = 1 / 3, 10_000
# Shares of the calibration inputs that were fitted to: above the first it is an error, above the second a warning.
# Rows of a few columns may be equal by chance.
SEEN_SHARE, DOUBTFUL_SHARE = 0.9, 0.02
LEARNED = ("score", "examples", "valid_range", "seen", "calibration")  # the parts whose tensors a file holds


class FailureDetector(OnHub, nn.Module):
    """Test that refuses inputs which a classifier would get wrong, with a guaranteed rate of false alarms.

    A detector is for one thread at a time, and so is its classifier meanwhile, on which it puts hooks that it takes off
    again. Give each thread a deep copy, or let them take turns.

    Where a method takes `data`, that is a loader of batches x or (x, label, ...), or `Features` that are already there.
    x is a tensor, a tuple of them for a classifier that takes several, or a mapping of them by name, as data collators
    make it, labels and all. In several processes each gives a loader of its own share.

    Args:
        classifier: any module from a batch to logits (N, C); it stays in evaluation mode in here and is not changed.
        n_components: K of the mixtures of the default score, `N_COMPONENTS` = 10 unless given.
        layers: names of layers to take features from, "penultimate", "stages", "depths", or None for what the score is
            meant for; see `FeatureExtractor`.
        covariance_type: of the mixtures of the default score, "full" unless given.
        score: an object with options, or None for `Combined`, the best over all sources of failure.
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

    Attributes:
        extractor: from a batch to logits and features.
        score: from features to a number for each input.
        calibration: from that number to a p-value.
        examples: fitting and labelled inputs that explanations refer to.
        plan: layers, views and sizes, decided at the start of `fit`; None before that.
        n_fitted, n_kept: inputs that it was fitted to, and how many of them were kept for that.
        precision: of the classifier on the calibration inputs; see `Features.precision`.
        format: of the calibration inputs, where they are images.
        preprocessing: a note for you on how inputs are prepared: names, and words, numbers or lists of these. No
            verdict depends on it.
        class_names: one word a class, for explanations; none unless they were set.

    Raises:
        ValueError: an option out of range or unknown; an option of the default score together with `score`.

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
        super().__init__()
        for name, value, kind in (("score", score, Score), ("calibration", calibration, Calibration)):
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"{name}: expected an object; got {value!r}: give make_{name}({value!r}), or make one")
        given = {"n_components": n_components, "covariance_type": covariance_type}
        options = {name: value for name, value in given.items() if value is not None}
        if score is not None and options:
            got = ", ".join(f"{name}={value!r}" for name, value in options.items())
            raise ValueError(
                f"{' and '.join(options)}: expected none together with a score; got {got} and score "
                f"{score.name!r}: give them to the score"
            )
        check_whole("seed", seed)
        self.score = make_score("combined", **options) if score is None else score
        self.extractor = FeatureExtractor(
            classifier,
            self.score.layers if layers is None else layers,
            pooling=self.score.pooling,
            views=self.score.chosen_views(views),
            reads=self.score.reads,
            adapter=NONE if adapter is None else adapter,
        )
        self.calibration = Calibration() if calibration is None else calibration
        self.examples, self.valid_range, self.seen = Examples(), ValidRange(), SeenInputs()
        self.alpha, self.seed = alpha, seed
        self.plan: Plan | None = None
        self.n_fitted = self.n_kept = 0
        self.precision, self.format = "", KnownFormat()
        self.preprocessing: dict[str, Any] = {}
        self.class_names = ()
        self._asked_views = None if views is None else self.extractor.views
        self._weights_known: KnownWeights | None = None
        self._warned_of: set[str] = set()

    @property
    def alpha(self) -> float:
        """The share of inputs like those of the calibration set that is refused at most, on average over such sets.

        Nothing is fitted again to change it.

        Raises, when set:
            ValueError: outside (0, 1), or, once calibrated, with too few calibration inputs to refuse anything.
        """
        return self._alpha

    @alpha.setter
    def alpha(self, alpha: float) -> None:
        self.calibration.target(alpha)
        self._alpha = float(alpha)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, none unless they were set. No verdict depends on them.

        Raises, when set:
            ValueError: something else than words, or another number of them than of classes.
        """
        return self._class_names

    @class_names.setter
    def class_names(self, names: Iterable[str]) -> None:
        found = None if isinstance(names, str) or not isinstance(names, Iterable) else tuple(names)
        n = self.plan.n_classes if self.plan is not None else len(found or ())
        if found is None or not all(isinstance(each, str) for each in found) or len(found) not in (0, n):
            raise ValueError(f"class_names: expected a list of words, one for each class, or none; got {names!r:.80}")
        self._class_names = tuple(map(str, found))

    @property
    def classifier(self) -> nn.Module:
        """The classifier, unchanged."""
        return self.extractor.classifier

    @property
    def device(self) -> torch.device:
        """The classifier's device."""
        tensor = next(self.classifier.parameters(), next(self.classifier.buffers(), None))
        return torch.device("cpu") if tensor is None else tensor.device

    @property
    def dtype(self) -> torch.dtype:
        """The type it computes in: float32, or float64 after a fit to float64 features or a move to that type."""
        return self.valid_range.largest.dtype

    def __repr__(self) -> str:
        return summary(self)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or convert; only the classifier becomes narrower than float32."""
        for name, module in self.named_children():
            module._apply(fn if name == "extractor" else at_least_float32(fn), recurse)
        return self

    # ---- features and statistics

    def features(self, loader: Iterable[Any]) -> Features:
        """Logits and features of all batches, together in the memory of the classifier's device.

        Labels are kept if the score uses them.

        Raises:
            ValueError: no batch at all, inputs in place of batches, or features that are not finite.
            TypeError: a batch whose inputs are no tensors.
        """
        parts = list(self._stream(loader, labels=None if self.score.ever_needs_labels else False, together=False))
        with torch.inference_mode(False):
            return Features.cat(parts)

    @torch.no_grad()
    def _stream(self, loader: Iterable[Any], *, labels: bool | None, together: bool = True) -> Iterator[Features]:
        """`features`, batch by batch; labels are taken (True), left (False), or taken where there are some (None).

        Features that are not finite raise after the last batch; in all processes, if `together`.
        """
        check_loader(loader)
        device, adapter, views = self.device, self.extractor.adapter, self.extractor.views
        is_open = self._asked_views is None and self.plan is None  # then what is no image has one view
        finite, keys = FiniteCheck(), InputKeys()
        for batch in loader:
            x = changed(inputs_of(batch, adapter), lambda value: value.to(device))
            features = self.extractor(x, views[:1] if is_open and not is_image(x) else None)
            if has_labels(batch, adapter) if labels is None else labels:
                features = features._replace(labels=labels_of(batch, adapter).to(device))
            finite.add(features)
            yield features._replace(keys=keys(x))
        finite.check(together=together)

    def statistics(self, data: Iterable[Any] | Features, *, labels: bool = False) -> Statistics:
        """A few numbers of each input, those of all processes together: what `calibrate` and reports can be given.

        Args:
            data: see the class.
            labels: keep them.

        Raises:
            NotFittedError: before `fit`.
            ValueError: no input, no labels where they are wanted, features that are not finite or have other layers,
                widths, views or classes than those of the fit.
        """
        self._planned()
        if isinstance(data, Features):
            check_learnable(data, labels=labels)
            return Statistics.cat([self._statistics(part) for part in data.chunks(CHUNK)])
        chunks = Chunks(self._statistics)
        for features in self._stream(data, labels=labels):
            chunks.add(features)
        return Statistics.cat(chunks.end()).gathered()

    @learning
    def _statistics(self, features: Features) -> Statistics:
        plan = self._planned()
        check_sizes(features, plan.widths, len(plan.views), plan.n_classes)
        labels, features = features.labels, features._replace(labels=None).to(self.dtype)
        return Statistics(
            values=self.score.statistics(features),
            components=self.score.components(features),
            prediction=features.own_logits.argmax(-1),
            inside=self.valid_range(features),
            keys=features.own_keys,
            labels=labels,
            precision=features.precision,
            format=features.format,
        )

    def _planned(self) -> Plan:
        if self.plan is None:
            raise NotFittedError("the detector has not been fitted yet: call fit(loader) first")
        return self.plan

    # ---- learning

    def fit(self, data: Iterable[Any] | Features, *, fitter: Fitter | None = None, n_given: int | None = None) -> Self:
        """Fit the score to the features of inputs, or of a random sample of them where they are many.

        The sample, see `gmm_torch.features.sample`, has half a gigabyte at most, and depends neither on the
        order of the inputs nor on batches. Where there are several processes it is drawn of the inputs of all, and each
        process ends with the same detector. A score that ranks among reference inputs learns from all but a fifth of
        them, 300 at most, and ranks among those until `calibrate` brings others.

        The detector is no longer calibrated.

        Args:
            data: see the class; read once, and labels are ignored.
            fitter: fits a mixture to features in place; the mixture's own `fit` by default. In several processes each
                is given all the features.
            n_given: of how many inputs `Features` are a sample; all unless given.

        Raises:
            ValueError: no input, features that are not finite, fewer than three inputs. Few inputs give fewer
                components than asked for: one for every twenty.
        """
        if not isinstance(data, Features):
            sample = Sample()
            for features in self._stream(data, labels=None if self.score.needs_labels else False):
                sample.add(features)
            data, n_given = sample.draw(together=True)
        return self._fit(data, fitter or partial(fit_mixture, seed=self.seed), n_given)

    @learning
    def _fit(self, features: Features, fitter: Fitter, n_given: int | None) -> Self:
        check_learnable(features, labels=self.score.needs_labels)
        n, n_views = features.logits.shape[:2]
        views = self._asked_views or self.score.chosen_views(None)[: None if n_views > 1 else 1]
        plan = Plan.of(self.extractor, views, features)
        check_sizes(features, plan.widths, len(plan.views), plan.n_classes)
        n_held_out = self.held_out_of(n)
        if n <= n_held_out:
            raise ValueError(f"fitting inputs: expected at least {n_held_out + 1}; got {n}: give more")
        self._follow(plan)
        self.to(features.logits.device)
        features = features.sorted_by_content()
        learned, held_out = features.rows(slice(n_held_out, None)), features.rows(slice(n_held_out))
        self.score.fit(learned, fitter)
        if n_held_out:
            self.score.hold_out(in_chunks(self.score.statistics, held_out))
        models = self.score.models()
        warn_of_unused_components(models, held_out if n_held_out else features)
        self.examples.build(models, plan.n_classes).fit(models, features)
        self.valid_range.fit(features)
        self.calibration = self.calibration.fresh().to(features.logits.device)
        self.n_fitted, self.n_kept = n if n_given is None else n_given, n
        self.seen.fit(features.own_keys[: n if self.score.state_dict() else 0])
        self._calibrated_in("", KnownFormat())
        return self

    def _follow(self, plan: Plan) -> None:
        """Take a plan, and make the tensors that `fit` or a file fills."""
        self.plan = plan
        plan.follow(self.extractor)
        self.score.build(dict(plan.widths), len(plan.views), plan.n_classes)
        self.valid_range.build(len(plan.widths))

    def held_out_of(self, n: int) -> int:
        """Number of n fitting inputs that mixtures are not fitted to: the score ranks its parts among them."""
        return min(self.score.n_reference, max(2, int(n * HELD_OUT_SHARE)))

    @torch.inference_mode(False)
    @torch.no_grad()
    def calibrate(self, data: Iterable[Any] | Features | Statistics) -> Self:
        """Calibrate on held-out inputs, which neither the classifier nor the mixture may have seen.

        A score that ranks among reference inputs gets a third of them for that, fewer where the calibration needs
        them, and is calibrated on the others. They are drawn by what they are, so no order matters, and the score is
        fixed before the others are ranked, so the p-value is valid for new inputs drawn as they were. Where they are
        few, fitting inputs that were held out join the reference.

        Args:
            data: see the class, or what `statistics` gave.

        Raises:
            NotFittedError: before `fit`.
            ValueError: no input, the inputs that it was fitted to, features that are not finite or far beyond
                those of the fitting inputs, no labels for a score that learns from them, or too few inputs for alpha;
                the message says how many it takes.
        """
        labels = self.score.needs_labels_to_calibrate or self.calibration.needs_labels
        found = data if isinstance(data, Statistics) else self.statistics(data, labels=labels)
        if labels:
            check_labels(found.labels, found.prediction, self._planned().n_classes)
        self._check_calibration_inputs(found)
        n = len(found.prediction)
        if self.score.n_reference:
            order = found.shuffled()
            self.calibration.require(self.alpha, n)  # before the reference of an earlier calibration is lost
            n_reference = min(int(n * REFERENCE_SHARE), n - self.calibration.smallest(self.alpha), MAX_REFERENCE)
            reference = found.rows(order[:n_reference])
            self.score.set_reference(reference.values, reference.wrong)
            found = found.rows(order[n_reference:])
        with full_precision(found.values.device):
            score = self.score.combine(found.values)
        log_weight = self.calibration.log_weights(Unlabelled(found.values, found.prediction), found.labels)
        self.calibration.fit(score, self.alpha, predictions=found.prediction, log_weight=log_weight)
        self._calibrated_in(found.precision, KnownFormat.of(found.format))
        return self

    def _check_calibration_inputs(self, found: Statistics) -> None:
        n = len(found.prediction)
        _check_inside(found, "calibration")
        share, known = self.seen.share_fitted(found.keys, self.n_kept / max(1, self.n_fitted))
        if share > SEEN_SHARE:
            raise ValueError(
                f"calibration inputs: expected others than the detector was fitted to; got {n}, and it was fitted "
                f"to {known} of them: hold some out, since scores of fitting inputs are higher than those of new ones"
            )
        if share > DOUBTFUL_SHARE:
            warn(
                f"calibration inputs: expected others than the detector was fitted to; got {n}, and {known} are "
                "equal to some of those: leave them out, since more than alpha of new inputs are refused otherwise",
                CalibrationWarning,
            )
        if shared := n_among(found.keys[:, 1], self.seen.reference):  # of what `adapt` was given, if it was
            raise ValueError(
                f"calibration inputs: expected none of the reference inputs of `adapt`; got {shared} of {n}: give "
                "others to one of the two, since weights must be fixed before calibration inputs are ranked"
            )

    def _calibrated_in(self, precision: str, format: KnownFormat) -> None:
        """Remember precision and format of the calibration inputs, and the classifier's weights."""
        self.precision, self.format = precision, format
        self._warned_of.clear()
        self._weights_known = KnownWeights(self.classifier) if len(self.calibration) else None

    @torch.inference_mode(False)
    @torch.no_grad()
    def adapt(
        self, deployment: Iterable[Any] | Features | Statistics, reference: Iterable[Any] | Features | Statistics
    ) -> Self:
        """Let a calibration with weights learn how inputs at deployment differ from those it is calibrated on.

        The detector is no longer calibrated.

        Args:
            deployment: inputs as they come, without labels, failures among them or not. Those far beyond the fitting
                inputs are left out: they are refused at any weight.
            reference: inputs from where the calibration inputs come from, but others: calibration inputs are ranked
                with weights that were fixed before. (x, label) for `LabelShiftCalibration`.

        Raises:
            NotFittedError: before `fit`.
            TypeError: the calibration has no weights.
            ValueError: no input, too few inputs, no labels where they are needed, features that are not finite
                or far beyond those of the fitting inputs.
        """
        self._planned()
        self.calibration.require_adapt()
        if not isinstance(reference, Statistics):
            reference = self.statistics(reference, labels=self.calibration.needs_labels)
        if not isinstance(deployment, Statistics):
            deployment = self.statistics(deployment)
        _check_inside(reference, "reference")
        deployment = deployment.rows(deployment.inside)
        samples = (Unlabelled(each.values, each.prediction) for each in (reference, deployment))
        self.calibration.adapt(*samples, labels=reference.labels)
        self.seen.adapt(reference.keys)
        return self

    # ---- verdicts

    def forward(self, x: Inputs | Features) -> Verdict:
        """Verdict on a batch, as `FeatureExtractor` takes it, or on its features.

        A verdict holds no graph of the classifier, unless the inputs ask for a gradient (`x.requires_grad_()`): then
        logits and score are differentiable in them. `margin` always is.

        Raises:
            NotFittedError: before `fit` and `calibrate`.
            ValueError: the classifier's weights have changed since `calibrate`; what writes to `.data` goes unnoticed
                until `save`.
        """
        self._planned()
        if isinstance(x, Features):
            return self._verdict(x)
        x = inputs_given(x, self.classifier, self.extractor.adapter)
        wanted = any(value.requires_grad for value in tensors_of(x))
        with torch.no_grad() if torch.is_grad_enabled() and not wanted else nullcontext():
            return self._verdict(self.extractor(x))

    def _features_of(self, x: Inputs | Features) -> Features:
        """Features of a batch, or those that are there."""
        if isinstance(x, Features):
            return x
        found: Features = self.extractor(inputs_given(x, self.classifier, self.extractor.adapter))
        return found

    @precisely
    def _verdict(self, features: Features, score: Tensor | None = None) -> Verdict:
        """The verdict, from scores (N,) where these are already there."""
        self._check_weights()
        features = features.to(self.dtype)
        self._warn_of_other_inputs(features)
        score = self._bounded(self.score(features) if score is None else score, features)
        given = self._given(features)
        p_value = self.calibration.p_value(score, **given)
        accept = self.calibration.accepts(score, **given, alpha=self.alpha)
        return Verdict(features.own_logits, given["predictions"], score, p_value, accept)

    def margin(self, x: Inputs | Features) -> Tensor:
        """Score less the threshold, (N,): accepted where it is >= 0. Differentiable, unlike the p-value."""
        self._planned()
        return self._margin(self._features_of(x))

    @precisely
    def _margin(self, features: Features) -> Tensor:
        features = features.to(self.dtype)
        self._warn_of_other_inputs(features)
        return self._bounded(self.score(features), features) - self.threshold(features)

    def threshold(self, features: Features) -> Tensor:
        """The score (N,) at and above which each of N inputs is accepted."""
        return self.calibration.threshold(self.alpha, **self._given(features))

    def _given(self, features: Features) -> dict[str, Any]:
        """Keyword arguments of the calibration for these inputs: everything but their scores."""
        predictions, log_weight = features.own_logits.argmax(-1), None
        if self.calibration.needs_adapt:  # others need no statistics
            with torch.no_grad():
                log_weight = self.calibration.log_weights(Unlabelled(self.score.statistics(features), predictions))
        return {"predictions": predictions, "log_weight": log_weight}

    def _bounded(self, score: Tensor, features: Features) -> Tensor:
        """Scores (N,), minus infinity where an input is outside the valid range or its score is not a number."""
        score = torch.nan_to_num(score, nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        return torch.where(self.valid_range(features), score, -torch.inf)

    def _check_weights(self, *, exact: bool = False) -> None:
        """Raise ValueError where the classifier has other weights than at calibration; see `KnownWeights`."""
        if self._weights_known is None or is_traced() or self._weights_known.are_of(self.classifier, exact=exact):
            return
        raise ValueError(
            "classifier: expected the weights on which the detector was calibrated; got others, for which its p-values "
            "are not valid: fit and calibrate again, or load those weights"
        )

    def _warn_of_other_inputs(self, features: Features) -> None:
        """Warn, once for each, of inputs that look other than the calibration inputs, and of another precision."""
        other = self.format.differences(features.format)
        if other and not other.keys() <= self._warned_of:
            self._warned_of.update(other)
            warn(warning_of(other), InputsWarning)
        found = features.precision
        if not (found and self.precision) or found == self.precision or found in self._warned_of:
            return
        self._warned_of.add(found)
        warn(
            f"classifier: expected outputs in {self.precision}, as at calibration; got {found}: p-values "
            "are no longer exact, since rounding moves scores: calibrate in this precision",
            PrecisionWarning,
        )

    # ---- explaining

    def explain(
        self,
        x: Inputs | Features,
        class_names: Sequence[str] | None = None,
        *,
        n_features: int = 5,
        n_nearest: int = 5,
    ) -> list[Explanation]:
        """Reasons why inputs are refused or accepted; `print(detector.explain(x)[0])` says them in words.

        Args:
            x: a batch of N inputs, or its features; one that is not finite is explained as that.
            class_names: index -> name; those of the detector by default, numbers where it has none.
            n_features: how many of the features that contribute most to the distance are listed.
            n_nearest: how many of the nearest fitting inputs; up to a thousand of them are kept to choose from. 0 takes
                half the time.

        Returns:
            for each input its verdict, probabilities in each view, p-values of the score's parts, and of each mixture:
            the component, its classes and error rate, the features that contribute most, the nearest fitting inputs.

        Raises:
            NotFittedError: before `fit` and `calibrate`.
            ValueError: fewer class names than classes.
        """
        plan = self._planned()
        check_count("n_features", n_features, at_least=0)
        check_count("n_nearest", n_nearest, at_least=0)
        class_names = self.class_names or None if class_names is None else class_names
        if class_names is not None and len(class_names) < plan.n_classes:
            raise ValueError(f"class_names: expected {plan.n_classes}, one a class; got {len(class_names)}")
        with torch.no_grad():
            return self._explain(self._features_of(x), n_features, n_nearest, class_names)

    @precisely
    def _explain(
        self, features: Features, n_features: int, n_nearest: int, class_names: Sequence[str] | None
    ) -> list[Explanation]:
        features = features.to(self.dtype)
        breakdown = self.score.breakdown(features)
        verdict = self._verdict(features, breakdown.score)
        return explain(self, features, verdict, breakdown, n_features, n_nearest, class_names)

    @torch.inference_mode(False)
    @torch.no_grad()
    def component_report(
        self, data: Iterable[Any] | Features | Statistics, *, confidence: float = 0.95
    ) -> dict[str, ComponentReport]:
        """Error rates of the classifier by component of each mixture, on labelled inputs, the highest first.

        `explain` knows the error rates of the components from then on. No verdict depends on them.

        Args:
            data: see the class, or what `statistics` gave; label (n,) int64 from 0 to C - 1. Inputs that the classifier
                was not trained on, or the error rates are too low.
            confidence: of the intervals.

        Returns:
            by name of the mixture, as in `explain`; nothing for a score without mixtures.

        Raises:
            NotFittedError: before `fit`.
            ValueError: no input, no labels, labels out of range, features that are not finite.
        """
        found = data if isinstance(data, Statistics) else self.statistics(data, labels=True)
        prediction, labels = found.prediction, check_labels(found.labels, found.prediction, self._planned().n_classes)
        self.examples.observe(found.components, prediction, labels)
        return {
            name: component_report(own, prediction, labels, model.mixture.n_components, confidence)
            for own, (name, model) in zip(found.components.unbind(1), self.score.models().items(), strict=True)
        }

    # ---- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything but the classifier to a safetensors file, whole or not at all.

        Raises:
            NotFittedError: before `fit` and `calibrate`.
            ValueError: the classifier's weights have changed since `calibrate`; no file can hold `preprocessing`.
        """
        from gmm_torch.detector.file import write

        plan = self._planned()
        self._check_weights(exact=True)
        self.calibration.threshold(self.alpha)
        header = vars(plan) | {
            "score": {"name": self.score.name, "options": self.score.options()},
            "calibration": {"name": self.calibration.name, "options": self.calibration.options()},
            "alpha": self.alpha,
            "seed": self.seed,
            "precision": self.precision,
            "format": self.format._asdict(),
            "preprocessing": self.preprocessing,
            "class_names": self.class_names,
            "n_fitted": self.n_fitted,
            "n_kept": self.n_kept,
            "classifier": fingerprint(self.classifier),
            "versions": {"torch": torch.__version__},
        }
        parts = {name: self.get_submodule(name).state_dict() for name in LEARNED}
        write(path, header, {f"{part}.{name}": value for part in parts for name, value in parts[part].items()})

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], classifier: nn.Module, *, strict: bool = True, adapter: Adapter | None = None
    ) -> Self:
        """Read a detector for `classifier`, onto the classifier's device.

        Nothing in the file can run, and loading takes no more memory than a few times its size.

        Args:
            path: written by `save`.
            classifier, adapter: those that the detector was made with.
            strict: refuse a classifier whose weights differ from those at the time of `save`; its p-values would
                mean nothing. False is for weights that were merely stored in another precision.

        Raises:
            FileNotFoundError, FileFormatError: no file, or none that a detector can be made of.
            ValueError, TypeError: the classifier is not the one that the detector was fitted to, or no module.
        """
        from gmm_torch.detector.file import fill, part_of, read

        if isinstance(path, nn.Module):
            raise TypeError(f"path: expected a detector file; got a {type(path).__name__}: give (path, classifier)")
        check_network(classifier)
        header, tensors = read(path)
        check_classifier(
            classifier, header.classifier.model_dump(), header.layers, header.preprocessing, path, strict=strict
        )
        try:
            detector = cls(
                classifier,
                layers=header.layers,
                views=header.views,
                alpha=header.alpha,
                seed=header.seed,
                score=make_score(header.score.name, **header.score.options),
                calibration=make_calibration(header.calibration.name, **header.calibration.options),
                adapter=adapter,
            )
            with torch.device("meta"):  # where sizes cost no memory
                detector._follow(header.plan)
            fill(detector.score, part_of(tensors, "score"), path)
            with torch.device("meta"):
                detector.examples.build(detector.score.models(), header.n_classes)
            for name in LEARNED[1:-1]:
                fill(detector.get_submodule(name), part_of(tensors, name), path)
            detector.calibration.load_state_dict(part_of(tensors, "calibration"))
            for module in detector.score.modules():
                if isinstance(module, GaussianMixture):
                    module.require_fitted()
            detector.examples.check(header.n_fitted, header.n_classes)
            detector.calibration.threshold(detector.alpha)
            detector.calibration.target(detector.alpha)
        except FileFormatError:
            raise
        except Exception as error:  # what a description can ask for has no bounds
            raise FileFormatError(f"detector file: {path}: no detector can be made of it ({error})") from error
        detector.n_fitted, detector.n_kept = header.n_fitted, header.n_kept
        detector.preprocessing = dict(header.preprocessing)
        detector.class_names = header.class_names
        leave_inference_mode(detector.to(detector.device))
        detector._calibrated_in(header.precision, header.known_format)
        return detector


def _check_inside(found: Statistics, name: str) -> None:
    """Raise ValueError unless all inputs are inside the valid range."""
    n, outside = len(found.prediction), int((~found.inside).sum())
    if outside:
        raise ValueError(
            f"{name} inputs: expected numbers like those of the fitting inputs; {outside} of {n} give logits "
            "or features that are not finite or a thousand times larger: look for such inputs, and leave them out "
            "if they are no good ones"
        )
