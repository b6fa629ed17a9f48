"""Columns of contributions in words."""

from gmm_torch.detector.column_names import ColumnNames
from gmm_torch.scores.feature_mixture import LOG_SOFTMAX, Block, each_view


def test_columns_are_named_by_layer_view_and_position():
    blocks = (Block("a", each_view(2), 2), Block("b", ((0, 1),), 4), Block(LOG_SOFTMAX, each_view(2), 2))
    names = ColumnNames(blocks, {"b": ("mean", "deviation")}, ("identity", "mirror"))
    assert [names.name(i) for i in range(4)] == [f"a[{i}], view {view}" for view in names.views for i in range(2)]
    pooled = [f"b {statistic}[{i}]" for statistic in ("mean", "deviation") for i in range(2)]
    assert [names.name(i) for i in range(4, 8)] == [f"{each}, mean of identity and mirror" for each in pooled]
    assert names.name(9, ("cat", "dog")) == "log-probability of dog, view identity"
    assert names.name(12) == "distance to the principal subspace"
    assert [names.layer(i) for i in range(13)] == 4 * ["a"] + 4 * ["b"] + 4 * [LOG_SOFTMAX] + [None]
    assert ColumnNames(blocks, {}, ("identity",)).name(1) == "a[1]"
