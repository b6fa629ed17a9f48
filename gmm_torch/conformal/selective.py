"""Thresholds at which accepted predictions are wrong at most at a target rate, with confidence 1 - delta.

`select_alpha` takes p-values of labelled inputs that are *not* the calibration inputs; `select_threshold` takes scores
of labelled inputs and nothing else (the calibration inputs may serve, if labelled). Both are exact and go back to
Geifman and El-Yaniv 2017, "Selective classification for deep neural networks". They bisect; here the candidates are
fixed in advance, because which candidates a bisection visits depends on the errors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from gmm_torch.checks import check_count, check_one_each, check_probability, check_scores
from gmm_torch.evaluation.rates import upper_bound

ALPHAS = (*(round(0.01 * i, 2) for i in range(99, 0, -1)), 0.005, 0.002, 0.001)


class UnattainableRiskError(ValueError):
    """No threshold gives the target error rate with the confidence asked for; the message says why."""


@dataclass(frozen=True)
class AcceptanceRule:
    """A threshold for accepting predictions, and what the labelled inputs say about it.

    Attributes:
        threshold: accept above it (strictly): a score, or alpha for p-values.
        n_accepted, n_errors: labelled inputs above it, of n, and wrong predictions among these.
        risk_bound: an upper bound of the error rate among accepted inputs at the level of the test that chose this
            threshold; at most the target.
        target, delta: error rate not to exceed, and the chance, over labelled sets, that it is exceeded nevertheless.
    """

    threshold: float
    n_accepted: int
    n_errors: int
    n: int
    risk_bound: float
    target: float
    delta: float

    @property
    def coverage(self) -> float:
        """Share of the labelled inputs accepted."""
        return self.n_accepted / self.n

    @property
    def risk(self) -> float:
        """Error rate among the accepted labelled inputs."""
        return self.n_errors / self.n_accepted


def select_alpha(
    p_values: Tensor,
    errors: Tensor,
    target: float,
    delta: float = 0.1,
    alphas: Sequence[float] = ALPHAS,
    n_starts: int = 4,
) -> AcceptanceRule:
    """The smallest alpha with P(wrong | p > alpha) <= target, with confidence 1 - delta over labelled sets.

    Fixed-sequence testing with several starts (Angelopoulos, Bates, Candes, Jordan, Lei 2021, "Learn then
    test"): from each start, at level delta / n_starts, alpha is lowered as long as the exact binomial test rejects
    "the error rate is above the target". The first false rejection of a start has probability <= delta / n_starts.

    Args:
        p_values: (N,), of labelled inputs that took part neither in the calibration nor in any fitting.
        errors: (N,) bool or 0/1, True where the prediction is wrong.
        target: error rate among accepted predictions, in (0, 1).
        delta: in (0, 1).
        alphas: candidates, descending, chosen without looking at these inputs. A detector takes none that is too small
            for its calibration set: leave out those whose `calibration_size` is larger.
        n_starts: places among the candidates to start at, from the first whose acceptances could suffice.

    Raises:
        UnattainableRiskError: no candidate passes; with the reason.
        ValueError: shapes, NaN, candidates that do not descend.
    """
    check_labelled(p_values, errors, target, delta)
    if len(alphas) == 0 or any(a <= b for a, b in pairwise(alphas)):
        raise ValueError(f"alphas: expected at least one, each lower than the one before; got {list(alphas)}")
    check_count("n_starts", n_starts)
    level = delta / n_starts
    tries = [_try(p_values, errors, alpha, target, level, delta) for alpha in alphas]
    # About N (1 - alpha) inputs are accepted; the first start has twice what it takes if none of them is wrong. The
    # errors must not enter here, nor may the acceptances: the sequence is fixed before the data.
    needed = 2 * math.log(level) / math.log1p(-target)
    first = next((j for j, alpha in enumerate(alphas) if len(p_values) * (1 - alpha) >= needed), len(alphas) - 1)
    best = -1
    for start in sorted({first + (len(alphas) - first) * s // n_starts for s in range(n_starts)}):
        for j in range(start, len(alphas)):
            if tries[j].risk_bound > target:
                break
            best = max(best, j)
    return _answer(tries, best, level)


def select_threshold(
    scores: Tensor, errors: Tensor, target: float, delta: float = 0.1, n_candidates: int = 32
) -> AcceptanceRule:
    """The lowest threshold with P(wrong | score > threshold) <= target, with confidence 1 - delta over labelled sets.

    The candidates are the scores of `n_candidates` evenly spaced ranks. Given such a score, the inputs strictly above
    it are independent draws from the inputs above it, ties included, so the binomial bound at level delta /
    n_candidates holds for it, and for all of them together at delta.

    Args:
        scores: (N,) of labelled inputs, which took part in no fitting; higher = more typical.
        errors, target, delta, Raises: as for `select_alpha`.
        n_candidates: at most N are used.
    """
    check_labelled(scores, errors, target, delta)
    thresholds = candidate_thresholds(scores, n_candidates)
    level = delta / len(thresholds)
    tries = [_try(scores, errors, threshold, target, level, delta) for threshold in thresholds]
    passed = [j for j, rule in enumerate(tries) if rule.risk_bound <= target]
    return _answer(tries, passed[-1] if passed else -1, level)


def candidate_thresholds(scores: Tensor, n_candidates: int) -> list[float]:
    """Scores (N,) of evenly spaced ranks, descending; N of them at most."""
    check_count("n_candidates", n_candidates)
    n, ordered = len(scores), scores.detach().sort(descending=True).values
    ranks = sorted({max(1, n * (j + 1) // n_candidates) for j in range(n_candidates)})
    return [float(ordered[rank - 1]) for rank in ranks]


def _try(scores: Tensor, errors: Tensor, threshold: float, target: float, level: float, delta: float) -> AcceptanceRule:
    accepted = scores > threshold
    n_accepted, n_errors = int(accepted.sum()), int((accepted & errors.bool()).sum())
    bound = upper_bound(n_errors, n_accepted, 1 - level)
    return AcceptanceRule(threshold, n_accepted, n_errors, len(scores), bound, target, delta)


def _answer(tries: list[AcceptanceRule], best: int, level: float) -> AcceptanceRule:
    if best >= 0:
        return tries[best]
    least = min(tries, key=lambda rule: rule.risk_bound)
    needed = math.ceil(math.log(level) / math.log1p(-least.target))
    if least.n_accepted < needed:
        why = f"even without any error it takes {needed} accepted inputs, and there are {least.n} labelled ones"
    else:
        why = (
            f"the best threshold accepts {least.n_accepted} of {least.n} labelled inputs, of which {least.n_errors} "
            f"are wrong: a rate of up to {least.risk_bound:.3g} can't be excluded"
        )
    raise UnattainableRiskError(
        f"target: an error rate of {least.target:g} with confidence {1 - least.delta:g} can't be had; {why}: give more "
        "labelled inputs, a higher target or a larger delta, or another score"
    )


def check_labelled(scores: Tensor, errors: Tensor, target: float, delta: float) -> None:
    """Raise unless there is an error, or none, for each score, and target and delta are probabilities."""
    check_scores("scores", scores)
    check_one_each("errors", "score", scores, errors, do="pass True where the prediction is wrong")
    if not bool(((errors == 0) | (errors == 1)).all()):
        raise ValueError("errors: expected True or False, 1 or 0; got other values: pass prediction != label")
    check_probability("target", target)
    check_probability("delta", delta)
