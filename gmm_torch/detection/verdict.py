"""The verdict on a batch."""

from typing import NamedTuple

from torch import Tensor
from torch.utils import _pytree


class Verdict(NamedTuple):
    """What a detector says about N inputs; without a graph, unless the inputs ask for a gradient.

    Attributes:
        logits: (N, C), the classifier's.
        prediction: (N,) int64, the classifier's class.
        score: (N,), higher = more typical.
        p_value: (N,) float64 (float32 on MPS, which has no other), conformal p-value of the hypothesis that the input
            is like the calibration inputs.
        accept: (N,) bool, p_value > alpha, decided by rank: exact whatever the precision. Which kind of failure a
            refused input is can't be told from this.
    """

    logits: Tensor
    prediction: Tensor
    score: Tensor
    p_value: Tensor
    accept: Tensor


# So that `torch.export.save` can write what an exported detector returns; there is no public call for named tuples.
_pytree._register_namedtuple(Verdict, serialized_type_name="gmm_torch.detection.verdict.Verdict")
