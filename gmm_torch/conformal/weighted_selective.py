"""A threshold at which accepted predictions are wrong at most at a target rate where new inputs come from elsewhere."""

from torch import Tensor

from gmm_torch.checks import check_one_each
from gmm_torch.conformal.selective import AcceptanceRule, UnattainableRiskError, candidate_thresholds, check_labelled
from gmm_torch.conformal.thinning import relative_weights
from gmm_torch.conformal.weighted_p_value import effective_sample_size
from gmm_torch.evaluation.betting import weighted_upper_bound


def select_weighted_threshold(
    scores: Tensor,
    errors: Tensor,
    log_weights: Tensor,
    max_weight: float,
    target: float,
    delta: float = 0.1,
    n_candidates: int = 16,
) -> AcceptanceRule:
    """The lowest threshold with P(wrong | score > threshold) <= target at deployment, with confidence 1 - delta.

    With w = dQ/dP of where new inputs come from (Q) and where labelled inputs come from (P), the error rate among
    accepted inputs of Q is E_P[w wrong] / E_P[w] over accepted inputs of P, bounded by `weighted_upper_bound` at level
    delta / n_candidates for each of the candidates of `select_threshold`, and so for all at delta. Exact for
    independent labelled inputs and weights that are right and were fixed before these were looked at; whether a
    prediction of such an input is wrong must not depend on where it comes from (covariate shift). With weights of
    another distribution Q', the rate is off by 2 TV(Q, Q') / (share accepted) at most.

    The counts of the result are of the labelled inputs, its `risk_bound` is of deployment.

    Args:
        scores: (n,) of labelled inputs, which took part in no fitting, nor in learning weights; higher = more typical.
        errors: (n,) bool, True where the prediction is wrong.
        log_weights: (n,), as of `WeightedScores.log_weights`; only their ratio to the largest matters.
        max_weight: no weight can be above it, whatever the input: that of the calibration. The smaller, the tighter.
        target, delta: in (0, 1).
        n_candidates: at most n are used.

    Raises:
        UnattainableRiskError: no candidate passes; with the reason.
        ValueError: shapes, NaN, weights above the largest.
    """
    check_labelled(scores, errors, target, delta)
    thresholds = candidate_thresholds(scores, n_candidates)
    check_one_each("log-weights", "score", scores, log_weights, do="give those of the calibration")
    weights, errors = relative_weights(log_weights, max_weight).clamp_max(1), errors.bool()
    rules = []
    for threshold in thresholds:
        accepted = scores > threshold
        bound = weighted_upper_bound(errors[accepted], weights[accepted], 1 - delta / len(thresholds))
        counts = int(accepted.sum()), int(errors[accepted].sum()), len(scores)
        rules.append(AcceptanceRule(threshold, *counts, bound, target, delta))
    passed = [rule for rule in rules if rule.risk_bound <= target]
    if passed:
        return passed[-1]
    least = min(rules, key=lambda rule: rule.risk_bound)
    raise UnattainableRiskError(
        f"target: an error rate of {target:g} with confidence {1 - delta:g} can't be had where weights are up to "
        f"{max_weight:g}; the best threshold accepts {least.n_accepted} of {len(scores)} labelled inputs (effective "
        f"sample size {effective_sample_size(log_weights):.1f} of all), and a rate of up to {least.risk_bound:.3g} "
        "can't be excluded: give more labelled inputs, a higher target, a larger delta or a smaller max_weight"
    )
