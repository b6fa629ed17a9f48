"""Features caught as a classifier runs, whoever runs it."""

from functools import partial
from typing import Any, NamedTuple, Self

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gmm_torch.detection.features import catch, evaluating, pooled
from gmm_torch.detection.layers import INPUT, PENULTIMATE, check_names, find_penultimate
from gmm_torch.detection.pooling import POOLINGS


class Caught(NamedTuple):
    """What one forward pass of a classifier gave.

    Attributes:
        logits: whatever the classifier returned.
        features: (N, D), pooled, at least float32, with their gradient where the pass had one.
    """

    logits: Any
    features: Tensor


class FeatureTap:
    """Hooks on a classifier that keep the features of its last forward pass, in training as in evaluation.

    `FeatureExtractor` runs a classifier, in evaluation mode; a tap only listens, so features of a training step cost
    no second pass.

    Args:
        classifier: any module from a batch to logits.
        layer: a name as in `FeatureExtractor`; "penultimate", the input of the last linear layer to run, is found at
            the first forward pass, by running three inputs of it once more, in evaluation mode.
        pooling: "mean", "maximum" or "moments"; see `gmm_torch.detection.pooling`.

    Raises:
        ValueError: a layer or pooling that there is not.

    Attributes:
        layer: the layer's name; None until "penultimate" is found.
    """

    def __init__(self, classifier: nn.Module, layer: str = PENULTIMATE, *, pooling: str = "mean") -> None:
        if pooling not in POOLINGS:
            raise ValueError(f"pooling: expected one of {', '.join(POOLINGS)}; got {pooling!r}")
        self.classifier = classifier
        self.pooling = pooling
        self.layer: str | None = None
        self._activation: dict[str, Tensor] = {}
        self._logits: Any = None
        self._handles: list[RemovableHandle] = []
        if layer == PENULTIMATE:
            self._handles.append(classifier.register_forward_pre_hook(self._find))
        else:
            check_names(classifier, [layer])
            self._listen(layer)

    def take(self) -> Caught:
        """What the last forward pass gave; the tap then forgets it.

        Raises:
            RuntimeError: the classifier, or the layer in it, has not run since.
        """
        if self._logits is None or not self._activation:
            missing = "the classifier" if self._logits is None else f"layer {self.layer!r}"
            raise RuntimeError(f"feature tap: {missing} has not run since features were last taken: run a batch first")
        caught = Caught(self._logits, pooled(self.pooling, self._activation.pop(str(self.layer))))
        self._logits = None
        return caught

    def remove(self) -> None:
        """Take the hooks off the classifier."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._activation.clear()
        self._logits = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def _find(self, classifier: nn.Module, args: tuple[Any, ...]) -> None:
        self.remove()  # this hook, before the classifier runs in it
        with evaluating(classifier):
            (layer,) = find_penultimate(classifier, args[0]).layers
        self._listen(layer)

    def _listen(self, layer: str) -> None:
        self.layer = layer
        module = self.classifier.get_submodule(layer.removesuffix(INPUT))
        self._handles.append(module.register_forward_hook(partial(catch, self._activation, layer), with_kwargs=True))
        self._handles.append(self.classifier.register_forward_hook(self._keep))

    def _keep(self, classifier: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._logits = output
