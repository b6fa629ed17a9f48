"""The verdict on a batch."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.utils import _pytree

from gmm_torch.mixture.density import is_traced

N_SHOWN = 5  # inputs of a batch that `print` shows


class Verdict(NamedTuple):
    """The decision on N inputs; without a graph, unless the inputs ask for a gradient.

    Attributes:
        logits: (N, C), the classifier's.
        prediction: (N,) int64, the classifier's class.
        score: (N,), higher = more typical.
        p_value: (N,) float64 (float32 on MPS, which has no other), conformal p-value of the hypothesis that the input
            is like the calibration inputs.
        accept: (N,) bool, p_value > alpha, decided by rank, so exact in any precision. It does not tell one kind of
            failure from another.
    """

    logits: Tensor
    prediction: Tensor
    score: Tensor
    p_value: Tensor
    accept: Tensor

    def __repr__(self) -> str:
        """Counts, the range of the p-values and the first inputs; shapes where values can't be read."""
        there = all(type(each) is Tensor and not each.is_meta for each in self)
        if is_traced() or not there or self.p_value.dim() != 1:
            return f"Verdict({', '.join(f'{name}={_shape(each)}' for name, each in self._asdict().items())})"
        return _in_a_few_lines(self)


# So that `torch.export.save` can write what an exported detector returns; there is no public call for named tuples.
_pytree._register_namedtuple(Verdict, serialized_type_name="gmm_torch.detector.verdict.Verdict")


def _shape(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else repr(value)


def _in_a_few_lines(verdict: Verdict) -> str:
    n, n_accepted = len(verdict.accept), int(verdict.accept.sum())
    if not n:
        return "Verdict on no inputs"
    columns = (each[:N_SHOWN].tolist() for each in verdict[1:])
    shown = [
        (str(i), str(prediction), f"{score:.4g}", f"{p:.3g}", "accepted" if accept else "refused")
        for i, (prediction, score, p, accept) in enumerate(zip(*columns, strict=True))
    ]
    lines = in_columns([("input", "prediction", "score", "p-value", ""), *shown])
    numbers = verdict.p_value[~verdict.p_value.isnan()]
    low, high = (numbers.min().item(), numbers.max().item()) if len(numbers) else (math.nan, math.nan)
    counted = f"{n:,} input{'s' * (n > 1)}: {n_accepted:,} accepted, {n - n_accepted:,} refused"
    more = [f"and {n - N_SHOWN:,} more"] if n > N_SHOWN else []
    return "\n".join([f"Verdict on {counted}; p-values {low:.3g} to {high:.3g}", *lines, *more])


def in_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line a row, each column as wide as its widest cell, cells on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
