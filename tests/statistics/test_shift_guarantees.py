"""Do the guarantees hold where the world moved? False-alarm rate of all these tests together, stated: 1e-3.

Each repetition has a calibration set of its own and one new input, so false alarms are binomial. Every test of a
guarantee is made at 1e-3 divided by their number; what must not hold is tested at the same level.
"""

import math

import torch
from scipy import stats

from gmm_torch.conformal.label_shift import class_weights
from gmm_torch.conformal.p_values import conformal_p_value
from gmm_torch.conformal.weighted import weighted_p_value

N_TESTS = 24
FALSE_ALARM = 1e-3 / N_TESTS
ALPHAS = (0.05, 0.1, 0.3)
REPETITIONS, N = 2000, 100


def generator(seed):
    return torch.Generator().manual_seed(seed)


def exceeds(p_values, alpha, promised=None):
    """Whether the share of p-values <= alpha is above what was promised: binomial, one-sided."""
    n = int((p_values <= alpha).sum())
    return stats.binomtest(n, len(p_values), promised or alpha, alternative="greater").pvalue < FALSE_ALARM


def of_all(function, repetitions=REPETITIONS):
    return torch.stack([function(i) for i in range(repetitions)])


def test_weighted_p_values_are_valid_for_another_gaussian_and_plain_ones_are_not():
    # as many as it takes to see that the new input's own weight is left out
    g, shift, repetitions = generator(0), -0.7, 2 * REPETITIONS
    # calibration scores are of N(0, 1), new ones of N(shift, 1): the weight exp(shift x - shift^2 / 2) is exact
    calibration = torch.randn(repetitions, N, generator=g).double()
    new = torch.randn(repetitions, 1, generator=g).double() + shift

    def log_weight(x):
        return shift * x - shift**2 / 2

    weighted = of_all(
        lambda i: weighted_p_value(new[i], log_weight(new[i]), calibration[i], log_weight(calibration[i])), repetitions
    )
    plain = of_all(lambda i: conformal_p_value(new[i], calibration[i].sort().values), repetitions)
    for alpha in ALPHAS:
        assert not exceeds(weighted, alpha)
        assert exceeds(plain, alpha)
    uniform = 1 - torch.rand(repetitions, 1, generator=g).double()
    smoothed = of_all(
        lambda i: weighted_p_value(
            new[i], log_weight(new[i]), calibration[i], log_weight(calibration[i]), uniform=uniform[i]
        ),
        repetitions,
    )
    assert stats.kstest(smoothed.flatten().numpy(), "uniform").pvalue > FALSE_ALARM


def test_with_ties_and_weights_by_a_covariate_they_are_valid_too():
    g = generator(1)
    # a covariate of five values whose frequencies change; a discrete score that depends on it
    old, new = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05]), torch.tensor([0.1, 0.1, 0.2, 0.3, 0.3])
    log_ratio = (new / old).double().log()

    def draw(proportions, shape):
        covariate = torch.multinomial(proportions, math.prod(shape), replacement=True, generator=g).view(shape)
        return covariate, (torch.randn(shape, generator=g) - covariate).round()

    (c, scores), (d, x) = draw(old, (REPETITIONS, N)), draw(new, (REPETITIONS, 1))
    weighted = of_all(lambda i: weighted_p_value(x[i], log_ratio[d[i]], scores[i], log_ratio[c[i]]))
    plain = of_all(lambda i: conformal_p_value(x[i], scores[i].sort().values))
    for alpha in ALPHAS:
        assert not exceeds(weighted, alpha)
        assert exceeds(plain, alpha)


def test_wrong_weights_cost_their_total_variation_distance_at_most():
    g, shift, believed = generator(2), -0.7, -0.3
    calibration = torch.randn(REPETITIONS, N, generator=g).double()
    new = torch.randn(REPETITIONS, 1, generator=g).double() + shift
    found = of_all(lambda i: weighted_p_value(new[i], believed * new[i], calibration[i], believed * calibration[i]))
    distance = 2 * stats.norm.cdf((believed - shift) / 2) - 1
    for alpha in ALPHAS:
        assert not exceeds(found, alpha, alpha + distance)
        assert exceeds(found, alpha)


def test_weights_by_true_class_are_valid_with_the_largest_for_a_new_input():
    g = generator(3)
    old, new, centres = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0.0, -1.0, -2.0])

    def draw(proportions, n):
        labels = torch.multinomial(proportions, REPETITIONS * n, replacement=True, generator=g).view(REPETITIONS, n)
        return labels, torch.randn(REPETITIONS, n, generator=g) + centres[labels]

    (labels, scores), (_, x) = draw(old, N), draw(new, 1)
    log_ratio = (new / old).double().log()
    heaviest = log_ratio.max().expand(1)
    weighted = of_all(lambda i: weighted_p_value(x[i], heaviest, scores[i], log_ratio[labels[i]]))
    plain = of_all(lambda i: conformal_p_value(x[i], scores[i].sort().values))
    for alpha in ALPHAS:
        assert not exceeds(weighted, alpha)
        assert exceeds(plain, alpha)
    assert float((weighted <= 0.1).double().mean()) > 0.04  # and it is not merely wide


def test_intervals_of_class_weights_hold_what_they_should():
    old, new = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.3, 0.3, 0.4])
    confusion = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])  # a row: predictions of a class
    true, g, n_sets, n = (new / old).double(), generator(4), 100, 800
    held = distance_held = 0
    for seed in range(n_sets):
        labels, hidden = (torch.multinomial(p, n, replacement=True, generator=g) for p in (old, new))
        predictions, deployed = (torch.multinomial(confusion[y], 1, generator=g)[:, 0] for y in (labels, hidden))
        found = class_weights(predictions, labels, deployed, 3, confidence=0.9, n_bootstrap=80, seed=seed)
        held += int(((found.low <= true) & (true <= found.high)).sum())
        distance_held += float(((found.weights - true).abs() * old).sum() / 2) <= found.error
    # a bootstrap is not exact: with a confidence of 0.9 it must not be shown to hold less than 0.85
    assert stats.binomtest(distance_held, n_sets, 0.85, alternative="less").pvalue > FALSE_ALARM
    assert held / (3 * n_sets) > 0.85
