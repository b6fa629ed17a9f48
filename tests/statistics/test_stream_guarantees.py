"""Do the guarantees on streams hold? False-alarm rate of all these tests together, stated: 1e-3.

Each repetition has a reference and a stream of its own. Every test of a guarantee is made at 1e-3 divided by their
number; what must not hold is tested at the same level.
"""

import math

import pytest
import torch
from scipy import stats

from gmm_torch.conformal.martingale import bet, gamble
from gmm_torch.conformal.p_values import smoothed_p_value
from gmm_torch.conformal.reference_martingale import ReferenceMartingale
from gmm_torch.conformal.risk_monitor import payoffs
from gmm_torch.conformal.selective import UnattainableRiskError, select_threshold
from gmm_torch.conformal.thinning import thinned
from gmm_torch.conformal.time_windows import TimeWindows
from gmm_torch.conformal.weighted_selective import select_weighted_threshold
from gmm_torch.evaluation.betting import rate_interval

N_TESTS = 22
FALSE_ALARM = 1e-3 / N_TESTS
SHIFT = -1.0  # of inputs: N(SHIFT, 1) in place of N(0, 1)
MAX_WEIGHT = 8.0


def generator(seed):
    return torch.Generator().manual_seed(seed)


def at_most(n_events, n, rate):
    return stats.binomtest(n_events, n, rate, alternative="greater").pvalue > FALSE_ALARM


def log_weights(x):
    """Of N(SHIFT, 1) cut off where the density ratio is above the largest weight."""
    ratio = SHIFT * x - SHIFT**2 / 2
    return torch.where(ratio <= math.log(MAX_WEIGHT), ratio, -torch.inf)


def shifted(n, g):
    """Draws of that distribution."""
    x = torch.randn(4 * n, generator=g) + SHIFT
    return x[log_weights(x) > -torch.inf][:n]


def reached(streams, threshold, **options):
    """How many of (reference, stream) raise an alarm: what `update` does, for all at once."""
    bets = [ReferenceMartingale(r, threshold, seed=i, **options).payoffs(x) for i, (r, x) in enumerate(streams)]
    return int((gamble(torch.stack(bets)).log_path >= math.log(threshold)).any(1).sum())


@pytest.mark.parametrize("discrete", [False, True])
def test_a_bet_against_a_reference_alarms_as_rarely_as_promised_and_on_plain_p_values_it_does_not(discrete):
    g, n, length, threshold, delta, repetitions = generator(int(discrete)), 40, 400, 5, 0.05, 300
    scores = torch.randn(repetitions, n + length, generator=g)
    scores = scores.mul(2).round() if discrete else scores
    streams = [(row[:n], row[n:]) for row in scores]
    on_average = reached(streams, threshold, promise="average")
    assert at_most(on_average, repetitions, 1 / threshold)
    assert on_average > 0.2 * repetitions / threshold  # it spends what it may
    assert at_most(reached(streams, threshold, promise="set", delta=delta), repetitions, 1 / threshold + delta)
    u = 1 - torch.rand(repetitions, length, generator=g)
    p = [smoothed_p_value(x, r.sort().values, draw) for (r, x), draw in zip(streams, u, strict=True)]
    naive = int((bet(torch.stack(p)).log_path >= math.log(threshold)).any(1).sum())
    assert not at_most(naive, repetitions, 1 / threshold)


def test_a_window_of_time_has_an_alarm_as_rarely_as_promised_and_on_plain_p_values_more_often():
    g, n, earlier, length, threshold, repetitions = generator(10), 40, 20, 250, 5, 200
    times = torch.arange(length - earlier, 2 * length, dtype=torch.float64)
    found, naive = [], []
    for seed in range(repetitions):
        scores = torch.randn(n + earlier + length, generator=g)
        watch = TimeWindows(ReferenceMartingale(scores[:n], threshold, seed=seed), seconds=length)
        watch.update(scores[n:], times)
        assert [window.n for window in watch.windows] == [earlier, length]
        found.append(watch.windows[1].alarm_at is not None)
        p = smoothed_p_value(scores[n + earlier :], scores[:n].sort().values, 1 - torch.rand(length, generator=g))
        naive.append(bool((bet(p).log_path >= math.log(threshold)).any()))
    assert at_most(sum(found), repetitions, 1 / threshold)
    assert sum(found) > 0.2 * repetitions / threshold
    assert not at_most(sum(naive), repetitions, 1 / threshold)


def test_given_the_set_alarms_are_rare_even_for_an_unlucky_reference():
    # a reference with too few low scores by luck, at the edge of what the bound at the level 0.05 allows for
    n, threshold, repetitions, g = 200, 5, 200, generator(3)
    k = int(0.05 * (n + 1))
    edge = float(stats.beta.isf(0.01 / 8, k, n + 1 - k)) * 0.98
    place = torch.arange(1, n + 1)
    even = place.double() / (n + 1)
    reference = torch.where(place >= k, even.clamp_min(edge), even)
    streams = [(reference, torch.rand(400, generator=g).double()) for _ in range(repetitions)]
    assert at_most(reached(streams, threshold, promise="set"), repetitions, 1 / threshold)
    assert not at_most(reached(streams, threshold), repetitions, 1 / threshold)  # that is on average over references


def test_inputs_kept_by_weight_are_inputs_of_the_other_place():
    g = generator(4)
    x = torch.randn(40_000, generator=g)
    kept = x[thinned(log_weights(x), MAX_WEIGHT)]
    assert stats.ks_2samp(kept.numpy(), shifted(5000, g).numpy()).pvalue > FALSE_ALARM
    assert stats.ks_2samp(x.numpy(), shifted(5000, g).numpy()).pvalue < FALSE_ALARM
    assert 0.1 < len(kept) / len(x) < 0.13  # about 1 / MAX_WEIGHT


def wrong(x, g, extra=0.0):
    """Errors of inputs: the lower the score, the more."""
    return torch.rand(len(x), generator=g) < (0.15 - 0.1 * x + extra).clamp(0.02, 0.9)


def test_a_shift_of_inputs_alone_is_not_taken_for_a_loss_of_accuracy_but_by_a_bet_without_weights():
    g, n, length, threshold, repetitions = generator(5), 1000, 150, 5, 120
    weighted, plain, fell, inputs, adapted = [], [], [], [], []
    for seed in range(repetitions):
        x, moved = torch.randn(n, generator=g), shifted(length, g)
        right, keep = (~wrong(x, g)).double(), thinned(log_weights(x), MAX_WEIGHT, seed)
        as_before = (~wrong(moved, g)).double()
        weighted.append((right[keep], as_before))
        plain.append((right, as_before))
        fell.append((right[keep], (~wrong(moved, g, 0.5)).double()))
        inputs.append((x, moved))
        adapted.append((x[keep], moved))
    assert at_most(reached(weighted, threshold), repetitions, 1 / threshold)
    assert at_most(reached(adapted, threshold), repetitions, 1 / threshold)
    assert not at_most(reached(plain, threshold), repetitions, 1 / threshold)
    assert reached(inputs, 100) > 0.9 * repetitions
    assert reached(fell, 100) > 0.5 * repetitions


def test_the_error_rate_among_accepted_of_another_place_exceeds_its_target_for_a_share_delta_at_most():
    # scores are uniform here; there, those below a half come four times as often as the others
    n, target, delta, repetitions, g = 1000, 0.17, 0.2, 80, generator(6)
    grid = torch.linspace(0, 1, 10_001)
    weight = torch.where(grid < 0.5, 1.6, 0.4)

    def risk(threshold):
        above = (grid > threshold) * weight
        return float((above * 0.3 * (1 - grid)).sum() / above.sum())

    failed = ignoring = refused = 0
    for _ in range(repetitions):
        x = torch.rand(n, generator=g)
        errors = torch.rand(n, generator=g) < 0.3 * (1 - x)
        log_weights = torch.where(x < 0.5, 1.6, 0.4).log()
        try:
            rule = select_weighted_threshold(x, errors, log_weights, 1.6, target, delta, n_candidates=8)
            failed += risk(rule.threshold) > target
        except UnattainableRiskError:
            refused += 1
        ignoring += risk(select_threshold(x, errors, target, delta, n_candidates=8).threshold) > target
    assert refused < repetitions / 10
    assert at_most(failed, repetitions, delta)
    assert not at_most(ignoring, repetitions, delta)


def test_bets_on_errors_alarm_as_rarely_as_promised_and_repeated_tests_do_not():
    g, target, delta, repetitions, n = generator(7), 0.2, 0.1, 1000, 250
    errors = torch.rand(repetitions, n, generator=g) < target
    worse = torch.rand(repetitions, n, generator=g) < target + 0.15

    def alarms(outcomes):
        return int((gamble(payoffs(outcomes, target)).log_path >= -math.log(delta)).any(1).sum())

    assert at_most(alarms(errors), repetitions, delta)
    assert alarms(worse) > 0.9 * repetitions
    looks = torch.arange(10, n + 1, 10)
    p = stats.binom.sf(errors.cumsum(1)[:, looks - 1].numpy() - 1, looks.numpy(), target)
    assert not at_most(int((p <= delta).any(1).sum()), repetitions, delta)


def test_an_interval_of_a_rate_holds_at_all_times_at_once():
    g, rate, confidence, repetitions = generator(8), 0.1, 0.8, 150
    missed = 0
    for _ in range(repetitions):
        errors = (torch.rand(400, generator=g) < rate).cumsum(0)
        looks = [rate_interval(int(errors[t]), t + 1 - int(errors[t]), confidence) for t in (4, 19, 59, 149, 399)]
        missed += any(not low <= rate <= high for low, high in looks)
    assert at_most(missed, repetitions, 1 - confidence)
