"""Features caught as a classifier runs, whoever runs it."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple, Self

from torch import Tensor, nn

from gmm_torch.checks import check_choice
from gmm_torch.features.adapter import unwrapped
from gmm_torch.features.extractor import Activations, pooled
from gmm_torch.features.inputs import Inputs, check_inputs, mask_of, n_inputs
from gmm_torch.features.layers import PENULTIMATE, check_names, find_penultimate
from gmm_torch.features.modes import evaluating
from gmm_torch.features.places import STATISTICS, statistics, tokens_at


class Caught(NamedTuple):
    """Results of one forward pass of a classifier."""

    logits: Any  # whatever the classifier returned
    features: Tensor  # (N, D), pooled, at least float32, with their gradient where the pass had one


class FeatureHook:
    """Hooks on a classifier that keep the features of its last forward pass, in training as in evaluation.

    `FeatureExtractor` runs a classifier, in evaluation mode; a hook only listens, so features of a training step cost
    no second pass.

    Args:
        classifier: any module from a batch to logits.
        layer: a name as in `FeatureExtractor`; "penultimate", the input of the last linear layer to run, is found at
            the first forward pass, by running three inputs of it once more, in evaluation mode.
        pooling: "mean", "maximum" or "moments"; see `gmm_torch.features.places`.

    Raises:
        ValueError: an unknown layer or pooling.

    Attributes:
        layer: the layer's name; None until "penultimate" is found.
    """

    def __init__(self, classifier: nn.Module, layer: str = PENULTIMATE, *, pooling: str = "mean") -> None:
        check_choice("pooling", pooling, STATISTICS)
        self.classifier = classifier
        self.pooling = pooling
        self.layer: str | None = None
        self._activations = Activations()
        self._stack = ExitStack()
        self._mask: Tensor | None = None
        self._logits: Any = None
        if layer == PENULTIMATE:
            self._look()
        else:
            check_names(classifier, [layer])
            self._listen(layer)

    def take(self) -> Caught:
        """Return the results of the last forward pass and forget them.

        Raises:
            RuntimeError: the classifier, or the layer in it, has not run since.
        """
        values = self._activations.values
        if self._logits is None or not values:
            missing = "the classifier" if self._logits is None else f"layer {self.layer!r}"
            raise RuntimeError(f"feature hook: {missing} has not run since features were last taken: run a batch first")
        layer = str(self.layer)
        activation, kept = tokens_at(layer, self._activations.modules[layer], values.pop(layer), self._mask)
        caught = Caught(self._logits, pooled(activation, statistics(self.pooling, activation), kept))
        self._logits = None
        return caught

    def remove(self) -> None:
        """Take the hooks off the classifier."""
        self._stack.close()
        self._activations.expect(0)
        self._logits = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def _look(self) -> None:
        self._stack.callback(self.classifier.register_forward_pre_hook(self._find, with_kwargs=True).remove)

    def _find(self, classifier: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.remove()  # this hook, before the classifier runs in it
        try:
            x = inputs_taken(args, kwargs)
            with evaluating(classifier):
                (layer,) = find_penultimate(unwrapped(classifier), x).layers
        except Exception:
            self._look()  # the next batch may be a better one to find it by
            raise
        self._listen(layer)
        self._expect(classifier, args, kwargs)

    def _listen(self, layer: str) -> None:
        self.layer = layer
        self._stack.callback(self.classifier.register_forward_pre_hook(self._expect, with_kwargs=True).remove)
        self._activations.listen(self._stack, self.classifier, layer)
        self._stack.callback(self.classifier.register_forward_hook(self._keep).remove)

    def _expect(self, classifier: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = inputs_taken(args, kwargs)
        self._activations.expect(n_inputs(x))
        self._mask = mask_of(x)

    def _keep(self, classifier: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._logits = output


def inputs_taken(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Inputs:
    """The inputs among what a classifier was called with: tensors by name, or else its arguments."""
    named = {name: value for name, value in kwargs.items() if isinstance(value, Tensor)}
    return check_inputs(named or (args[0] if len(args) == 1 else tuple(args)))
