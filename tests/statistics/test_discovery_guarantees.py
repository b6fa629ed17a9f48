"""Do the guarantees on what one finds hold? False-alarm rate of all these tests together, stated: 1e-3.

Each repetition has a calibration set and a batch, or a stream, of its own. Every test of a guarantee is made at 1e-3
divided by their number; what must not hold is tested at the same level.
"""

import pytest
import torch
from scipy import stats

from gmm_torch.conformal.conditional_calibration import ConditionalCalibration
from gmm_torch.conformal.conformal_selection import conformal_selection, selection_p_values
from gmm_torch.conformal.discovery_bounds import discovery_bounds
from gmm_torch.conformal.e_values import e_discoveries, soft_rank_e_values
from gmm_torch.conformal.false_discovery import discoveries
from gmm_torch.conformal.online_discovery import OnlineDiscoveries
from gmm_torch.conformal.p_values import conformal_p_value
from gmm_torch.conformal.weighted_selection import weighted_conformal_selection, weighted_discoveries

N_TESTS = 25
FALSE_ALARM = 1e-3 / N_TESTS


def generator(seed):
    return torch.Generator().manual_seed(seed)


def at_most(n_events, n, rate):
    return stats.binomtest(n_events, n, rate, alternative="greater").pvalue > FALSE_ALARM


def mean_at_most(values, bound):
    """Whether the mean of independent numbers in [0, 1] agrees with a bound; by betting against it, exactly valid."""
    values = torch.as_tensor(values, dtype=torch.float64)
    bets = torch.linspace(0.05, 1, 20, dtype=torch.float64)[:, None]
    wealth = (1 + bets * (values - bound)).log().sum(1).exp().mean()
    return float(wealth) < 1 / FALSE_ALARM


def proportion(found, good):
    return float((found & good).sum() / found.sum().clamp(min=1))


@pytest.mark.parametrize("n_failures", [0, 40])
@pytest.mark.parametrize("discrete", [False, True])
def test_bounds_hold_at_every_threshold_at_once_and_without_the_shared_set_they_do_not(n_failures, discrete):
    g, n, m, delta, repetitions = generator(n_failures + discrete), 60, 100, 0.2, 800
    good = torch.arange(m) >= n_failures
    failed = ignoring = 0
    for _ in range(repetitions):
        scores = torch.randn(n + m, generator=g)
        scores[n:][~good] -= 2.5
        scores = scores.mul(3).round() if discrete else scores
        p = conformal_p_value(scores[n:], scores[:n].sort().values)

        def fails(bounds, p=p):
            # every bound follows from these two
            small = (p[good][:, None] <= bounds.thresholds).sum(0)
            return bool((small > bounds.at_most).any()) or bounds.n_good < int(good.sum())

        failed += fails(discovery_bounds(p, n, delta))
        ignoring += fails(discovery_bounds(p, 10**6, delta))  # as if the p-values were independent
    assert at_most(failed, repetitions, delta)
    if not discrete:
        assert failed > 0.2 * delta * repetitions  # and they are not merely wide
    if not discrete and not n_failures:
        assert not at_most(ignoring, repetitions, delta)


def test_bounds_on_wrong_predictions_hold_whatever_goes_out():
    g, n, m, delta, repetitions = generator(4), 150, 80, 0.2, 300
    failed = 0
    for _ in range(repetitions):
        scores = torch.rand(n + m, generator=g)
        wrong = torch.rand(n + m, generator=g) < 0.5 * (1 - scores)
        bounds = discovery_bounds(selection_p_values(scores[n:], scores[:n], wrong[:n]), n, delta, selection=True)
        order = scores[n:].argsort(descending=True)
        failed += any(
            int(wrong[n:][order[:k]].sum()) > bounds.good(torch.zeros(m, dtype=torch.bool).index_fill(0, order[:k], 1))
            for k in range(1, m, 6)
        )
    assert at_most(failed, repetitions, delta)
    assert failed > 0.1 * delta * repetitions


def test_of_predictions_that_go_out_unseen_a_share_q_is_wrong_at_most_and_of_accepted_ones_more():
    g, n, m, q, repetitions = generator(5), 40, 30, 0.2, 800
    selected, accepted = [], []
    for _ in range(repetitions):
        scores = torch.rand(n + m, generator=g)
        wrong = torch.rand(n + m, generator=g) < 0.9 * (1 - scores)
        selected.append(proportion(conformal_selection(scores[n:], scores[:n], wrong[:n], q), wrong[n:]))
        accepted.append(proportion(conformal_p_value(scores[n:], scores[:n].sort().values) > q, wrong[n:]))
    assert mean_at_most(selected, q)
    assert sum(selected) / repetitions > 0.5 * q
    assert not mean_at_most(accepted, q)


def test_e_values_of_good_inputs_have_mean_one():
    g, n, repetitions = generator(6), 30, 1200
    scores = torch.randn(repetitions, n + 1, generator=g).mul(3).round().exp()  # with ties and a long tail
    e = torch.stack([soft_rank_e_values(row[:1], row[1:])[0] for row in scores])
    assert mean_at_most(e / (n + 1), 1 / (n + 1))
    assert mean_at_most(1 - e / (n + 1), n / (n + 1))  # nor is it below


def test_e_values_keep_the_rate_under_a_dependence_that_breaks_benjamini_and_hochberg():
    # Guo, Rao 2008: k p-values fall together where k of them are just enough; each alone is uniform
    g, n, m, q, repetitions = generator(7), 400, 10, 0.3, 500
    chance = torch.cat([q / torch.arange(1, m + 1), torch.zeros(1)])
    chance[-1] = 1 - chance.sum()
    drawn = torch.multinomial(chance, repetitions, replacement=True, generator=g) + 1
    by_e, by_p = [], []
    for k in drawn.tolist():
        p = torch.full((m,), q) + (1 - q) * torch.rand(m, generator=g)
        if k <= m:
            p[torch.randperm(m, generator=g)[:k]] = (k - 1 + torch.rand(k, generator=g)) * q / m
        calibration = torch.rand(n, generator=g)
        by_p.append(float(discoveries(conformal_p_value(p, calibration.sort().values), q).any()))
        by_e.append(float(e_discoveries(soft_rank_e_values(-((1 - p).log()), -((1 - calibration).log())), q).any()))
    assert mean_at_most(by_e, q)
    assert not mean_at_most(by_p, q)


@pytest.mark.parametrize("discrete", [False, True])
def test_in_a_batch_from_elsewhere_a_share_q_of_the_named_is_good_at_most_with_weights_alone(discrete):
    # a covariate, even here and of density 3 (1 - x)^2 there, and a score that depends on it
    g, n, m, q, repetitions = generator(9 + discrete), 300, 40, 0.2, 250
    good = torch.arange(m) >= 4
    weighted, plain, n_found = [], [], 0
    for seed in range(repetitions):
        x, there = torch.rand(n, generator=g).double(), 1 - torch.rand(m, generator=g).double() ** (1 / 3)
        calibration = x + torch.randn(n, generator=g) / 5
        scores = there + torch.randn(m, generator=g) / 5 - 1.5 * ~good
        if discrete:
            calibration, scores = calibration.mul(20).round(), scores.mul(20).round()
        data = scores, 2 * torch.log1p(-there), calibration, 2 * torch.log1p(-x), q
        found = weighted_discoveries(*data, seed=seed if discrete else None)
        weighted.append(proportion(found, good))
        plain.append(proportion(discoveries(conformal_p_value(scores, calibration.sort().values), q), good))
        n_found += int((found & ~good).sum())
    assert mean_at_most(weighted, q)
    assert n_found > repetitions
    assert not mean_at_most(plain, q)


def test_of_predictions_that_go_out_unseen_elsewhere_a_share_q_is_wrong_at_most_with_weights_alone():
    g, n, m, q, repetitions = generator(11), 200, 40, 0.1, 500
    weighted, plain = [], []
    for _ in range(repetitions):
        x, there = torch.rand(n, generator=g).double(), torch.rand(m, generator=g).double() ** (1 / 3)  # 3 x^2
        wrong, wrong_there = (torch.rand(len(each), generator=g) < 0.9 * (1 - each) for each in (x, there))
        out = weighted_conformal_selection(there, 2 * there.log(), x, 2 * x.log(), wrong, q)
        weighted.append(proportion(out, wrong_there))
        plain.append(proportion(conformal_selection(there, x, wrong, q), wrong_there))
    assert mean_at_most(weighted, q)
    assert sum(weighted) / repetitions > 0.5 * q
    assert not mean_at_most(plain, q)


@pytest.mark.parametrize(("method", "conditional"), [("lond", False), ("lord", True), ("saffron", True)])
def test_failures_in_a_stream_are_named_at_a_false_discovery_rate_of_q(method, conditional):
    g, n, length, q, repetitions = generator(8), 3000, 45, 0.3, 120
    shares, alone, n_found = [], [], 0
    good = torch.arange(length) % 8 > 0
    for _ in range(repetitions):
        calibration, x = torch.randn(n, generator=g), torch.randn(length, generator=g) - 4 * ~good
        p = conformal_p_value(x, calibration.sort().values)
        alone.append(proportion(p <= q, good))
        if conditional:
            p = ConditionalCalibration(0.1).fit(calibration, 0.05).p_value(x)
        found = OnlineDiscoveries(q, 1 / (n + 1), method, conditional=conditional).update(p).found
        shares.append(proportion(found, good))
        n_found += int(found.sum())
    assert mean_at_most(shares, q + 0.1 * conditional)  # with delta = 0.1, for 90 % of calibration sets
    assert n_found > repetitions / 2
    assert not mean_at_most(alone, q)
