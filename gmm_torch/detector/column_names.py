"""What the columns of a mixture's contributions are called."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gmm_torch.scores.feature_mixture import LOG_SOFTMAX, Block

RESIDUAL = "distance to the principal subspace"


@dataclass(frozen=True)
class ColumnNames:
    """Layers and words for the columns of contributions; it can be pickled, as the mixture itself need not be."""

    blocks: tuple[Block, ...]  # what the columns are, in order; one more is what a projection leaves out
    statistics: Mapping[str, Sequence[str]]  # layer -> what its channels are pooled to, none where they are not
    views: Sequence[str]

    def layer(self, column: int) -> str | None:
        """The layer of a column; None for the rest that no layer has alone."""
        return self._place(column)[0]

    def name(self, column: int, class_names: Sequence[str] | None = None) -> str:
        """A column in words."""
        layer, views, position, width = self._place(column)
        if layer is None:
            return RESIDUAL
        if layer == LOG_SOFTMAX:
            feature = f"log-probability of {position if class_names is None else class_names[position]}"
        else:
            statistics = self.statistics.get(layer, ("",))
            which, channel = divmod(position, width // len(statistics))
            feature = f"{layer} {statistics[which]}".rstrip() + f"[{channel}]"
        if len(self.views) == 1:
            return feature
        named = " and ".join(self.views[view] for view in views)
        return f"{feature}, {'view' if len(views) == 1 else 'mean of'} {named}"

    def _place(self, column: int) -> tuple[str | None, tuple[int, ...], int, int]:
        """Layer, views, position in the layer and the layer's width."""
        for layer, groups, width in self.blocks:
            if column < len(groups) * width:
                return layer, groups[column // width], column % width, width
            column -= len(groups) * width
        return None, (), 0, 0
