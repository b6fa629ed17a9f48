"""The sizes and names that a fit decided once, from which scores, mixtures and buffers are built."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gmm_torch.features.extractor import FeatureExtractor
from gmm_torch.features.features import Features


@dataclass(frozen=True)
class Plan:
    """The layers, views and sizes of a fitted detector.

    Attributes:
        layers: names of the layers that features come from.
        found_by: the rule that found them.
        statistics: layer -> names of what its channels are pooled to; none where they are taken as they are.
        views: names of the views of an input.
        widths: layer -> D of its features.
        n_classes: C of the logits.
        input_shape: of one input; None where inputs are no single tensors.
    """

    layers: tuple[str, ...]
    found_by: str
    statistics: Mapping[str, tuple[str, ...]]
    views: tuple[str, ...]
    widths: Mapping[str, int]
    n_classes: int
    input_shape: tuple[int, ...] | None

    @classmethod
    def of(cls, extractor: FeatureExtractor, views: Sequence[str], features: Features) -> "Plan":
        """The plan for features that an extractor gave."""
        return cls(
            layers=tuple(extractor.layers),
            found_by=extractor.found_by,
            statistics={layer: names for layer in extractor.layers if (names := extractor.statistics.get(layer))},
            views=tuple(views),
            widths={layer: value.shape[-1] for layer, value in features.layers.items()},
            n_classes=features.logits.shape[-1],
            input_shape=extractor.input_shape,
        )

    def follow(self, extractor: FeatureExtractor) -> None:
        """Make an extractor give the features of this plan."""
        extractor.layers, extractor.views = list(self.layers), self.views
        extractor.found_by, extractor.input_shape = self.found_by, self.input_shape
        extractor.statistics = dict(self.statistics)
