"""Do the guarantees on streams hold? False-alarm rate of all these tests together, stated: 1e-3.

Each repetition has a reference and a stream of its own. Every test of a guarantee is made at 1e-3 divided by their
number; what must not hold is tested at the same level.
"""

import math

import pytest
import torch
from scipy import stats

from gmm_torch.conformal.drift import DriftMonitor, _ReferenceBets, bet, gamble
from gmm_torch.conformal.p_values import smoothed_p_value

N_TESTS = 22
FALSE_ALARM = 1e-3 / N_TESTS


def generator(seed):
    return torch.Generator().manual_seed(seed)


def at_most(n_events, n, rate):
    return stats.binomtest(n_events, n, rate, alternative="greater").pvalue > FALSE_ALARM


def reached(streams, threshold, delta=None):
    """Number of pairs (reference, stream) with an alarm of `DriftMonitor`; all at once."""
    bets = [_ReferenceBets(r, i, delta).payoffs(x, 0) for i, (r, x) in enumerate(streams)]
    return int((gamble(torch.stack(bets)).log_path >= math.log(threshold)).any(1).sum())


@pytest.mark.parametrize("discrete", [False, True])
def test_a_bet_against_a_reference_alarms_as_rarely_as_promised_and_on_plain_p_values_it_does_not(discrete):
    g, n, length, threshold, delta, repetitions = generator(int(discrete)), 40, 400, 5, 0.05, 300
    scores = torch.randn(repetitions, n + length, generator=g)
    scores = scores.mul(2).round() if discrete else scores
    streams = [(row[:n], row[n:]) for row in scores]
    on_average = reached(streams, threshold)
    assert at_most(on_average, repetitions, 1 / threshold)
    assert on_average > 0.2 * repetitions / threshold  # it spends what it may
    assert at_most(reached(streams, threshold, delta), repetitions, 1 / threshold + delta)
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
        watch = DriftMonitor(scores[:n], threshold, against="reference", seconds=length, seed=seed)
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
    assert at_most(reached(streams, threshold, 0.01), repetitions, 1 / threshold)
    assert not at_most(reached(streams, threshold), repetitions, 1 / threshold)  # that is on average over references
