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
from gmm_torch.mixture import GaussianMixture

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
        layers: names of layers to take features from, or None for the penultimate; see `FeatureExtractor`.
        covariance_type: of the mixtures.
        score: a score, or None for the log-likelihood of the features.
        alpha: the false alarm rate on inputs like those of the calibration set.
        seed: of the mixtures' initialisation.

    Example:
        >>> detector = FailureDetector(classifier)              # doctest: +SKIP
        >>> detector.fit(train_loader)                          # doctest: +SKIP
        >>> detector.calibrate(calibration_loader)              # doctest: +SKIP
        >>> detector(images).accept                             # doctest: +SKIP
    """

    def __init__(
        self,
        classifier: nn.Module,
        n_components: int = 30,
        *,
        layers: Sequence[str] | None = None,
        covariance_type: str = "full",
        score: Score | None = None,
        alpha: float = 0.05,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_alpha(alpha)
        self.extractor = FeatureExtractor(classifier, layers)
        self.score = score or make_score("log_likelihood", n_components=n_components, covariance_type=covariance_type)
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
        parts = [self.extractor(first_of(batch).to(device)) for batch in batches]
        if not parts:
            raise ValueError("loader: expected at least one batch; got none")
        outputs = Outputs.cat(parts)
        for layer, value in outputs.features.items():
            bad = int((~torch.isfinite(value).all(1)).sum())
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
        widths = {layer: value.shape[1] for layer, value in outputs.features.items()}
        self._build(widths, outputs.logits.shape[1])
        self.to(outputs.logits.device)
        self.score.fit(outputs, fitter or self._fit_mixture)
        self.calibration = Calibration().to(outputs.logits.device)
        self.n_fitted = len(outputs.logits)
        return self

    def _fit_mixture(self, mixture: GaussianMixture, features: Tensor) -> GaussianMixture:
        return mixture.fit(features, reg_covar=REG_COVAR, seed=self.seed)

    def _build(self, widths: dict[str, int], n_classes: int) -> None:
        self.widths, self._n_classes = widths, n_classes
        self.score.build(widths, n_classes)

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
        """`calibrate`, from outputs that are already there."""
        self._check_fitted()
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
        return Verdict(outputs.logits, outputs.logits.argmax(-1), score, p_value, p_value > self.alpha)

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
            layers, widths, n_classes = spec["layers"], dict(spec["widths"]), int(spec["n_classes"])
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
        detector = cls(classifier, layers=layers, score=score, alpha=alpha, seed=seed)
        detector._build(widths, n_classes)
        own = {key.removeprefix("score."): value for key, value in file.tensors.items() if key.startswith("score.")}
        load_exactly(detector.score, own, f"detector file: {path}")
        scores = file.tensors.get("calibration.scores", torch.empty(0))
        detector.calibration.fit(scores, alpha)
        detector.n_fitted = int(spec.get("n_fitted", 0))
        return detector.to(detector.device)
