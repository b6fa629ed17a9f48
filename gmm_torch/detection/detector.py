"""The failure detector: classifier, features, score, calibration, verdict. Read this first."""

import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from gmm_torch.batches import first_of
from gmm_torch.detection.calibration import Calibration, check_alpha
from gmm_torch.detection.features import FeatureExtractor
from gmm_torch.detection.outputs import Outputs
from gmm_torch.detection.scores import SCORES, Fitter, Score, make_score
from gmm_torch.detection.storage import DetectorFile, fingerprint, load_exactly, read_detector, write_detector
from gmm_torch.errors import FileFormatError, NotFittedError
from gmm_torch.functional.p_values import calibration_size
from gmm_torch.mixture import GaussianMixture

# Every third calibration input is a reference for scores that need one; not below so many.
REFERENCE_EVERY, MIN_REFERENCE, MAX_REFERENCE = 3, 50, 10_000
# Features of a classifier are nearly rank-deficient: without a floor a component collapses onto a few points and
# held-out inputs look impossible. Chosen by held-out likelihood, which needs no failures.
REG_COVAR = 1e-2


class Verdict(NamedTuple):
    """What a detector says about N inputs.

    Attributes:
        logits: (N, C), the classifier's.
        prediction: (N,) int64, the classifier's class.
        score: (N,), higher = more typical.
        p_value: (N,), conformal p-value of the hypothesis that the input is like the calibration inputs.
        accept: (N,) bool, p_value > alpha. Which kind of failure a refused input is can't be told from this.
    """

    logits: Tensor
    prediction: Tensor
    score: Tensor
    p_value: Tensor
    accept: Tensor


class FailureDetector(nn.Module):
    """Refuses inputs that a classifier would get wrong, with a guaranteed rate of false alarms.

    Args:
        classifier: any module from a batch to logits (N, C); it stays in evaluation mode in here and is not changed.
        n_components: K of the mixtures.
        layers: names of layers to take features from, "penultimate", "stages", or None for what the score is meant
            for; see `FeatureExtractor`.
        covariance_type: of the mixtures.
        score: a score, or None for `Consensus`, the best over all sources of failure.
        views: how many views of an image to look at, or their names, or None for those that the score is meant for.
            Each costs one pass of the classifier; 1 is the image alone, as is None for inputs that are no images.
        alpha: the false alarm rate on inputs like those of the calibration set.
        seed: of the mixtures' initialisation.

    Example:
        >>> detector = FailureDetector(classifier)              # doctest: +SKIP
        >>> detector.fit(train_loader)                          # doctest: +SKIP
        >>> detector.calibrate(calibration_loader)              # doctest: +SKIP
        >>> detector(images).accept                             # doctest: +SKIP
    """

    extractor: FeatureExtractor
    score: Score
    calibration: Calibration

    def __init__(
        self,
        classifier: nn.Module,
        n_components: int = 10,
        *,
        layers: Sequence[str] | str | None = None,
        covariance_type: str = "full",
        score: Score | None = None,
        views: int | Sequence[str] | None = None,
        alpha: float = 0.05,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_alpha(alpha)
        self.score = score or make_score("consensus", n_components=n_components, covariance_type=covariance_type)
        if isinstance(views, int) and not 1 <= views <= len(self.score.views):
            raise ValueError(f"views: the score {self.score.name} has 1 to {len(self.score.views)}; got {views}")
        chosen = self.score.views[:views] if views is None or isinstance(views, int) else views
        self.extractor = FeatureExtractor(
            classifier, self.score.layers if layers is None else layers, pooling=self.score.pooling, views=chosen
        )
        self.views_by_default = views is None
        self.calibration = Calibration()
        self.alpha = alpha
        self.seed = seed
        self.n_fitted = 0
        self.widths: dict[str, int] = {}
        self._n_classes = 0

    @property
    def classifier(self) -> nn.Module:
        """The classifier, unchanged."""
        return self.extractor.classifier

    @property
    def device(self) -> torch.device:
        """Where the classifier is."""
        tensor = next(self.classifier.parameters(), next(self.classifier.buffers(), None))
        return torch.device("cpu") if tensor is None else tensor.device

    # ---- learning

    @torch.no_grad()
    def outputs(self, batches: Iterable[Any]) -> Outputs:
        """Logits and features of all batches x or (x, ...), on the classifier's device; labels are ignored.

        Raises:
            ValueError: no batch at all, or features that are not finite.
        """
        device = self.device
        parts = []
        for batch in batches:
            x = first_of(batch).to(device)
            if self.views_by_default and not self.widths and x.dim() != 4:
                self.extractor.views = ("identity",)
            parts.append(self.extractor(x))
        if not parts:
            raise ValueError("loader: expected at least one batch; got none")
        outputs = Outputs.cat(parts)
        for layer, value in outputs.features.items():
            bad = int((~torch.isfinite(value).flatten(1).all(1)).sum())
            if bad:
                raise ValueError(
                    f"features of layer {layer!r}: {bad} of {len(value)} inputs give NaN or infinity: "
                    "look for such inputs, or for a classifier that overflows"
                )
        return outputs

    def fit(self, loader: Iterable[Any], fitter: Fitter | None = None) -> Self:
        """Fit the score to the features of the loader's inputs.

        Args:
            loader: batches x or (x, ...); labels are ignored.
            fitter: fits a mixture to features in place; the mixture's own `fit` by default.

        Returns:
            self, no longer calibrated.

        Raises:
            ValueError: an empty loader, features that are not finite, fewer inputs than components.
        """
        return self.fit_outputs(self.outputs(loader), fitter)

    @torch.no_grad()
    def fit_outputs(self, outputs: Outputs, fitter: Fitter | None = None) -> Self:
        """`fit`, from outputs that are already there."""
        widths = {layer: value.shape[-1] for layer, value in outputs.features.items()}
        self._build(widths, outputs.logits.shape[-1])
        self.to(outputs.logits.device)
        self.score.fit(outputs, fitter or self._fit_mixture)
        self.score.refer(outputs.rows(slice(MAX_REFERENCE)))
        self.calibration = Calibration().to(outputs.logits.device)
        self.n_fitted = len(outputs.logits)
        return self

    def _fit_mixture(self, mixture: GaussianMixture, features: Tensor) -> GaussianMixture:
        return mixture.fit(features, reg_covar=REG_COVAR, seed=self.seed)

    def _build(self, widths: dict[str, int], n_classes: int) -> None:
        self.widths, self._n_classes = widths, n_classes
        self.score.build(widths, len(self.extractor.views), n_classes)

    def calibrate(self, loader: Iterable[Any]) -> Self:
        """Take the scores of held-out inputs, which neither the classifier nor the mixture may have seen.

        Raises:
            ValueError: an empty loader, or too few inputs for alpha; the message says how many it takes.
            NotFittedError: before `fit`.
        """
        self._check_fitted()
        return self.calibrate_outputs(self.outputs(loader))

    @torch.no_grad()
    def calibrate_outputs(self, outputs: Outputs) -> Self:
        """`calibrate`, from outputs that are already there.

        A score that ranks among reference inputs gets every third of them for that, and is calibrated on the others:
        then the p-value is exactly valid. With too few for both, the fitting inputs stay the reference; validity is
        the same, since the score is fixed either way before the calibration inputs are ranked.
        """
        self._check_fitted()
        n = len(outputs.logits)
        reference = torch.arange(n, device=outputs.logits.device) % REFERENCE_EVERY == 0
        n_reference = int(reference.sum())
        enough = n_reference >= MIN_REFERENCE and n - n_reference >= calibration_size(self.alpha)
        if self.score.needs_reference and enough:
            self.score.refer(outputs.rows(reference))
            outputs = outputs.rows(~reference)
        self.calibration.fit(self.score(outputs), self.alpha)
        return self

    def _check_fitted(self) -> None:
        if not self.widths:
            raise NotFittedError("the detector has not been fitted yet: call fit(loader) first")

    # ---- judging

    def forward(self, x: Tensor) -> Verdict:
        """Verdict on a batch; the score is differentiable in x, the p-value is not.

        Raises:
            NotFittedError: before `fit` and `calibrate`.
        """
        return self.judge(self.extractor(x))

    def judge(self, outputs: Outputs) -> Verdict:
        """`forward`, from outputs that are already there."""
        self._check_fitted()
        score = self.score(outputs)
        p_value = self.calibration.p_value(score)
        logits = outputs.own_logits
        return Verdict(logits, logits.argmax(-1), score, p_value, p_value > self.alpha)

    def margin(self, x: Tensor) -> Tensor:
        """Score less the threshold, (N,): accepted where it is >= 0. Differentiable, unlike the p-value."""
        self._check_fitted()
        return self.score(self.extractor(x)) - self.calibration.threshold(self.alpha)

    # ---- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything but the classifier to a safetensors file, whole or not at all.

        Raises:
            NotFittedError: before `fit` and `calibrate`.
        """
        self._check_fitted()
        self.calibration.threshold(self.alpha)
        spec = {
            "layers": self.extractor.layers,
            "views": list(self.extractor.views),
            "widths": self.widths,
            "n_classes": self._n_classes,
            "score": {"name": self.score.name, "options": self.score.options()},
            "alpha": self.alpha,
            "seed": self.seed,
            "n_fitted": self.n_fitted,
            "classifier": fingerprint(self.classifier),
            "versions": {"torch": torch.__version__},
        }
        tensors = {f"score.{name}": value for name, value in self.score.state_dict().items()}
        tensors["calibration.scores"] = self.calibration.scores
        write_detector(path, DetectorFile(spec, tensors))

    @classmethod
    def load(cls, path: str | os.PathLike[str], classifier: nn.Module, *, strict: bool = True) -> Self:
        """Read a detector for `classifier`, onto the classifier's device.

        Args:
            path: written by `save`.
            classifier: the one that the detector was fitted to.
            strict: refuse a classifier whose weights differ from those at the time of `save`; its p-values would
                mean nothing. False is for weights that were merely stored in another precision.

        Raises:
            FileNotFoundError, FileFormatError: see `read_detector`.
            ValueError: the classifier is not the one that the detector was fitted to.
        """
        file = read_detector(path)
        spec = file.spec
        try:
            name, options = spec["score"]["name"], spec["score"]["options"]
            if name not in SCORES:
                raise FileFormatError(f"detector file: {path} has an unknown score {name!r}")
            layers, views = list(spec["layers"]), tuple(spec["views"])
            widths, n_classes = dict(spec["widths"]), int(spec["n_classes"])
            stored, alpha, seed = spec["classifier"], float(spec["alpha"]), int(spec["seed"])
            score = make_score(name, **options)
        except (KeyError, TypeError) as error:
            raise FileFormatError(f"detector file: {path} has a damaged description ({error})") from error
        actual = fingerprint(classifier)
        for part, meaning in (("structure", "layers or shapes"), ("weights", "weights")):
            if actual[part] != stored.get(part) and (strict or part == "structure"):
                raise ValueError(
                    f"classifier: its {meaning} are not those the detector {path} was fitted to; load that "
                    "classifier's checkpoint, or fit and calibrate a detector for this one"
                )
        detector = cls(classifier, layers=layers, score=score, views=views, alpha=alpha, seed=seed)
        detector._build(widths, n_classes)
        own = {key.removeprefix("score."): value for key, value in file.tensors.items() if key.startswith("score.")}
        detector.score.reserve({key: tuple(value.shape) for key, value in own.items()})
        load_exactly(detector.score, own, f"detector file: {path}")
        scores = file.tensors.get("calibration.scores", torch.empty(0))
        detector.calibration.fit(scores, alpha)
        detector.n_fitted = int(spec.get("n_fitted", 0))
        return detector.to(detector.device)
