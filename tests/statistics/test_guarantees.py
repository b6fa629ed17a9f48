"""Do the guarantees hold in simulation? False-alarm rate of these tests, stated: 1e-4 each, with fixed seeds.

Every simulation draws its samples independently, so the number of sets for which a guarantee fails is binomial with a
rate of at most delta.
"""

import pytest
import torch
from scipy import stats

from gmm_torch.conformal.conditional import BOUNDS, conditional_alpha
from gmm_torch.conformal.drift import bet, online_p_values
from gmm_torch.conformal.mondrian import MondrianCalibration
from gmm_torch.conformal.p_values import conformal_p_value, smoothed_p_value, threshold_index
from gmm_torch.conformal.selection import discoveries
from gmm_torch.conformal.selective import UnattainableRiskError, select_alpha, select_threshold

FALSE_ALARM = 1e-4


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def uniforms(*shape, seed=0):
    return 1 - torch.rand(shape, generator=generator(seed), dtype=torch.float64)  # (0, 1]


def at_most(n_events, n, rate):
    """Whether a count agrees with binomial(n, at most rate)."""
    return stats.binomtest(n_events, n, rate, alternative="greater").pvalue > FALSE_ALARM


@pytest.mark.parametrize("levels", [2, 5, 10_000])
def test_randomised_p_values_are_uniform_whatever_the_ties(levels):
    # one p-value a calibration set: they are independent
    scores = (torch.rand(2000, 51, generator=generator()) * levels).floor()
    u = uniforms(2000, seed=1)
    p = torch.cat(
        [smoothed_p_value(row[50:], row[:50].sort().values, v) for row, v in zip(scores, u[:, None], strict=True)]
    )
    assert stats.kstest(p.numpy(), "uniform").pvalue > FALSE_ALARM


def test_p_values_within_a_class_are_uniform_in_the_class_and_in_the_pool():
    g = generator()
    p, grouped = [], []
    for _ in range(1000):
        classes = torch.multinomial(torch.tensor([0.6, 0.25, 0.1, 0.05]), 81, replacement=True, generator=g)
        scores = (torch.randn(81, generator=g) + 2 * classes).round()
        calibration = MondrianCalibration(4).fit(scores[:80], 0.1, predictions=classes[:80])
        draw = 1 - torch.rand(1, generator=g)
        p.append(calibration.p_value(scores[80:], classes[80:], uniform=draw))
        grouped.append(calibration.pooled[classes[80:]])
    p, pooled = torch.cat(p), torch.cat(grouped)
    assert 80 < int(pooled.sum()) < 700
    for group in (p[pooled], p[~pooled]):
        assert stats.kstest(group.numpy(), "uniform").pvalue > FALSE_ALARM


@pytest.mark.parametrize("method", BOUNDS)
def test_conditional_p_values_fail_for_at_most_a_share_delta_of_calibration_sets(method):
    # Given uniform scores, the rate of p <= b_k is the k-th smallest score: no test inputs are needed.
    n, delta, n_sets = 400, 0.2, 2000
    ordered = torch.rand(n_sets, n, generator=generator(), dtype=torch.float64).sort(1).values
    failed = int((ordered > BOUNDS[method](n, delta)[:-1]).any(1).sum())
    assert at_most(failed, n_sets, delta)
    if method != "dkw":
        assert failed > 0.05 * n_sets  # and it is not merely wide


def test_a_level_fixed_beforehand_fails_for_at_most_a_share_delta_of_calibration_sets():
    n, delta, alpha, n_sets = 400, 0.1, 0.05, 5000
    k = threshold_index(conditional_alpha(alpha, n, delta), n)
    rate = torch.rand(n_sets, n, generator=generator()).sort(1).values[:, k - 1]
    failed = int((rate > alpha).sum())
    assert at_most(failed, n_sets, delta)
    assert failed > 0.03 * n_sets
    # the marginal level fails for about half of the sets
    assert int((torch.rand(n_sets, n, generator=generator()).sort(1).values[:, 19] > alpha).sum()) > 0.4 * n_sets


@pytest.mark.parametrize("storey", [False, True])
@pytest.mark.parametrize("n_failures", [0, 15])
def test_the_false_discovery_rate_is_at_most_q(storey, n_failures):
    n_batches, n, m, q = 1000, 499, 50, 0.2
    g = generator()
    calibration = torch.randn(n_batches, n, generator=g).sort(1).values
    batch = torch.randn(n_batches, m, generator=g)
    batch[:, :n_failures] -= 3
    proportion = []
    for scores, reference in zip(batch, calibration, strict=True):
        found = discoveries(conformal_p_value(scores, reference), q, storey=storey)
        proportion.append(float(found[n_failures:].sum() / found.sum().clamp(min=1)))
    proportion = torch.tensor(proportion, dtype=torch.float64)
    z = stats.norm.isf(FALSE_ALARM)
    assert proportion.mean() <= q + z * proportion.std() / n_batches**0.5
    assert proportion.mean() > 0.5 * q  # it finds things, and spends what it may


@pytest.mark.parametrize("discrete", [False, True])
def test_a_martingale_ever_reaches_c_on_clean_streams_with_probability_at_most_one_in_c(discrete):
    n_streams, n, length = 800, 60, 300
    scores = torch.randn(n_streams, n + length, generator=generator())
    scores = scores.round() if discrete else scores
    p_values, _ = online_p_values(scores[:, n:], uniforms(n_streams, length), scores[:, :n].sort(1).values)
    highest = bet(p_values).log_path.max(1).values.exp()
    for capital in (2, 5, 20):
        assert at_most(int((highest >= capital).sum()), n_streams, 1 / capital)


@pytest.mark.parametrize("select", [select_alpha, select_threshold])
@pytest.mark.parametrize("discrete", [False, True])
def test_the_error_rate_among_accepted_exceeds_the_target_for_at_most_a_share_delta_of_labelled_sets(select, discrete):
    # P(wrong | p) = 0.4 (1 - p) has the error rate 0.2 (1 - t) above t; the target is that of t = 1/2
    n_sets, n, target, delta, steps = 150, 1500, 0.1, 0.2, 20
    g = generator()
    failed = refused = 0
    for _ in range(n_sets):
        p = 1 - torch.rand(n, generator=g)
        p = (p * steps).ceil() / steps if discrete else p
        errors = torch.rand(n, generator=g) < 0.4 * (1 - p)
        try:
            t = select(p, errors, target, delta).threshold
        except UnattainableRiskError:
            refused += 1
            continue
        above = torch.arange(1, steps + 1)[torch.arange(1, steps + 1) / steps > t + 1e-6] / steps
        risk = float(0.4 * (1 - above).mean()) if discrete else 0.2 * (1 - t)
        failed += risk > target
    assert refused < n_sets / 2
    assert at_most(failed, n_sets, delta)
