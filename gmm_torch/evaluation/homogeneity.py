"""Is the rate of an event the same in all groups?"""

import numpy as np
from numpy.typing import ArrayLike

from gmm_torch.checks import check_count


def homogeneity(sizes: ArrayLike, events: ArrayLike, n_draws: int = 9999, seed: int = 0) -> float:
    """P-value of "the rate is the same in all groups", by permutation.

    The events are dealt out at random among the members, sizes of the groups kept; the statistic is Pearson's
    chi-squared. Valid for any counts; 1 where nothing or everything is an event.

    Args:
        sizes, events: (K,) integers, members of each group and events among them; no members say nothing.
        n_draws: random deals; the p-value is never below 1 / (n_draws + 1).
    """
    check_count("n_draws", n_draws)
    sizes, events = np.asarray(sizes, dtype=np.int64), np.asarray(events, dtype=np.int64)
    sizes, events = sizes[sizes > 0], events[sizes > 0]
    total = int(events.sum())
    if len(sizes) < 2 or total in (0, int(sizes.sum())):
        return 1.0
    dealt = np.random.default_rng(seed).multivariate_hypergeometric(sizes, total, n_draws)
    # Pearson's chi-squared, up to constants
    observed, spread = (events**2 / sizes).sum(), (dealt**2 / sizes).sum(1)
    return float((1 + (spread >= observed * (1 - 1e-12)).sum()) / (n_draws + 1))
