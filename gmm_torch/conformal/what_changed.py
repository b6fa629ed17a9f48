"""After an alarm: what changed, as numbers that a report can show."""

from typing import NamedTuple

import scipy
import torch
from torch import Tensor

from gmm_torch.checks import check_count, check_p_values
from gmm_torch.conformal.martingale import payoffs_of
from gmm_torch.conformal.p_values import refused
from gmm_torch.evaluation.binomial import interval
from gmm_torch.evaluation.hypothesis_tests import holm

SURE = 0.05  # p-value of a component's growth up to which it is told
RARE = 0.05  # chance that one of N clean inputs has a p-value that `onset` takes for a larger one


class ComponentChange(NamedTuple):
    """How often a component of the mixture explains inputs best, before and now.

    Attributes:
        share_before, share_now: of reference inputs, and of inputs now.
        low, high: a 95 % interval of the share now.
        p_value: of "the share has not grown", Fisher's exact test, one-sided, Holm-corrected for all components.
        examples: indices of its least typical inputs now, the lowest p-value first.
    """

    component: int
    share_before: float
    share_now: float
    low: float
    high: float
    p_value: float
    examples: tuple[int, ...]


class Stretch(NamedTuple):
    """P-values of n inputs of the stream, the first at index `start`: the share refused at alpha, and three deciles.

    Of clean inputs the deciles are 0.1, 0.5 and 0.9.
    """

    start: int
    n: int
    refused: float
    low: float
    median: float
    high: float


class WhatChanged(NamedTuple):
    """What changed: components whose share has grown, the least doubtful first, and p-values over time.

    A description: the alarm said where to look, so what is found there is no second proof.
    """

    components: tuple[ComponentChange, ...]
    stretches: tuple[Stretch, ...]

    @property
    def grown(self) -> list[ComponentChange]:
        """The components whose share grew by more than chance explains."""
        return [each for each in self.components if each.p_value <= SURE]

    @property
    def in_words(self) -> str:
        """A sentence for a report or a log."""
        if not self.grown:
            return "no component's share has grown by more than chance explains"
        parts = [
            f"component {each.component} from {100 * each.share_before:.1f} to {100 * each.share_now:.1f} % "
            f"(for example inputs {', '.join(map(str, each.examples))})"
            for each in self.grown
        ]
        return f"grown: {'; '.join(parts)}"


def onset(p_values: Tensor) -> int:
    """Index of the input with which p-values (N,), which end with an alarm, most likely began to be unlike clean ones.

    The start from which on one of the bets of `martingale.bet` that gain by small numbers gains most: the change point
    that is most likely where p-values after it have that bet's density (Page 1954). An estimate without a promise.

    Small p-values count as 0.05 / N at least, so that no single input decides. Large ones count by how few of the N are
    as large, since clean p-values may be large from the start: they have ties at 1, and bounds are 1 for many ranks.

    Raises:
        ValueError: no p-values, or some outside [0, 1].
    """
    check_p_values(p_values)
    p = p_values.detach().cpu().double()
    as_large = (len(p) - torch.searchsorted(p.sort().values, p)) / len(p)
    at_0, at_1 = payoffs_of(torch.tensor([0.0, 1.0], dtype=torch.float64))
    payoffs = payoffs_of(torch.stack([p.clamp_min(RARE / len(p)), as_large], 1))[..., at_0 >= at_1]
    gains = payoffs.flatten(1).log().flip(0).cumsum(0).flip(0)  # (N, B), from each on
    best = gains.max(0)
    return int(best.indices[best.values.argmax()])


def what_changed(
    reference_components: Tensor,
    components: Tensor,
    p_values: Tensor,
    *,
    start: int = 0,
    alpha: float = 0.05,
    n_examples: int = 5,
    n_stretches: int = 20,
) -> WhatChanged:
    """Compare inputs now with reference inputs by the components that explain them, and show p-values over time.

    Args:
        reference_components: (n,) int64, `mixture.predict` of reference inputs, which the mixture was not fitted to.
        components, p_values: (m,) int64, and (m,), of the inputs around the alarm, in their order.
        start: index in the stream of the first of these; indices given are of the stream.
        alpha: for the share refused.
        n_examples: for each component.
        n_stretches: of equal length but for the last, at most.

    Raises:
        ValueError: shapes, p-values outside [0, 1].
    """
    check_p_values(p_values)
    check_count("n_examples", n_examples)
    for name, value in (("reference components", reference_components), ("components", components)):
        if value.dim() != 1 or len(value) == 0 or value.is_floating_point() or int(value.min()) < 0:
            raise ValueError(f"{name}: expected (n,) integers >= 0, n >= 1; got {tuple(value.shape)} of {value.dtype}")
    if components.shape != p_values.shape:
        raise ValueError(f"components: expected one per p-value, {len(p_values)}; got {len(components)}")
    over_time = stretches(p_values, start=start, alpha=alpha, n_stretches=n_stretches)
    before, now, p = reference_components.cpu(), components.cpu(), p_values.detach().cpu()
    n_components = 1 + max(int(before.max()), int(now.max()))
    old, new = (torch.bincount(each, minlength=n_components).tolist() for each in (before, now))
    raw = [
        float(scipy.stats.fisher_exact([[b, len(now) - b], [a, len(before) - a]], alternative="greater").pvalue)
        for a, b in zip(old, new, strict=True)
    ]
    corrected = holm(raw)
    changes = []
    for c in sorted(range(n_components), key=raw.__getitem__):
        if new[c] / len(now) > old[c] / len(before):
            own = (now == c).nonzero()[:, 0]
            examples = own[p[own].argsort(stable=True)[:n_examples]] + start
            low, high = interval(new[c], len(now))
            shares = old[c] / len(before), new[c] / len(now)
            changes.append(ComponentChange(c, *shares, low, high, corrected[c], tuple(examples.tolist())))
    return WhatChanged(tuple(changes), over_time)


def stretches(p_values: Tensor, *, start: int = 0, alpha: float = 0.05, n_stretches: int = 20) -> tuple[Stretch, ...]:
    """P-values (m,) over time; see `what_changed`."""
    check_p_values(p_values)
    check_count("n_stretches", n_stretches)
    p = p_values.detach().cpu()
    length = -(-len(p) // n_stretches)
    found = []
    for i, piece in enumerate(p.split(length)):
        share = float(refused(piece, alpha).double().mean())
        deciles = piece.double().quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()
        found.append(Stretch(start + i * length, len(piece), share, *deciles))
    return tuple(found)
