"""A network with its normalisation in front, as the application judges with it."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from gmm_torch.classifier.adapter import NONE, Adapter
from gmm_torch.classifier.inputs import inputs_of, run
from gmm_torch.classifier.normalize import Normalize
from gmm_torch.functional.logits import logits_of


class NormalizedClassifier(nn.Sequential):
    """`normalize`, then `network`: images (N, channels, height, width) in [0, 1] to logits (N, C).

    What the network calls `logits` in an output with names, as those of transformers do, is taken out of it.

    Args:
        modules: these two by name.
        adapter: from normalised images to what the network takes, and from its output to logits.
    """

    def __init__(self, modules: "OrderedDict[str, nn.Module]", adapter: Adapter = NONE) -> None:
        super().__init__(modules)
        self.adapter = adapter

    def output(self, x: Tensor) -> Any:
        """What the network returns, or what the adapter makes of it."""
        found = run(self.get_submodule("network"), inputs_of(self.get_submodule("normalize")(x), self.adapter))
        return found if self.adapter.logits is None else self.adapter.logits(found)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return logits_of(self.output(x))


def with_normalization(
    network: nn.Module, mean: Sequence[float], std: Sequence[float], adapter: Adapter = NONE
) -> NormalizedClassifier:
    """A network as the application judges with it: of images in [0, 1], which are normalised inside.

    It is what a detector that was fitted on the command line is loaded with in Python.

    Args:
        network: with its weights.
        mean, std: of each channel, `data.mean` and `data.std` in the run's `config.yaml`; zeros and ones for null.
        adapter: as `classifier.adapter`.

    Raises:
        ValueError: see `Normalize`.
    """
    return NormalizedClassifier(OrderedDict(normalize=Normalize(mean, std), network=network), adapter)
