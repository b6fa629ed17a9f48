import itertools

import pytest
import torch
from scipy import stats

from gmm_torch.conformal.batch_tests import batch_p_value

STATISTICS = ("fisher", "rank_sum", "kolmogorov")


def draw(n, shift, seed):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)) - shift


def exact_rank_sum(batch, calibration):
    """Over all ways to choose the batch."""
    ranks = stats.rankdata(torch.cat([batch, calibration]).numpy())
    sums = [sum(chosen) for chosen in itertools.combinations(ranks, len(batch))]
    return sum(value <= sum(ranks[: len(batch)]) + 1e-9 for value in sums) / len(sums)


@pytest.mark.parametrize("tied", [False, True])
def test_the_rank_sum_agrees_with_every_reassignment(tied):
    batch, calibration = draw(4, 0.5, 0), draw(7, 0, 1)
    if tied:
        batch, calibration = batch.round(), calibration.round()
    expected = exact_rank_sum(batch, calibration)
    got = batch_p_value(batch, calibration, "rank_sum", n_permutations=20_000)
    assert got == pytest.approx(expected, abs=5 * (expected / 20_000) ** 0.5)


def test_kolmogorov_agrees_with_scipy():
    batch, calibration = draw(30, 0.4, 0), draw(80, 0, 1)
    expected = stats.ks_2samp(batch.numpy(), calibration.numpy(), method="exact").pvalue
    got = batch_p_value(batch, calibration, "kolmogorov", n_permutations=20_000)
    assert got == pytest.approx(expected, abs=5 * (expected / 20_000) ** 0.5)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_shifted_batch_is_found_and_the_smallest_p_value_is_that_of_the_draws(statistic):
    assert batch_p_value(draw(60, 2, 0), draw(300, 0, 1), statistic, n_permutations=199) == 1 / 200


def test_only_kolmogorov_minds_scores_that_are_too_high():
    batch, calibration = draw(60, -1, 0), draw(300, 0, 1)
    assert batch_p_value(batch, calibration, "kolmogorov") < 0.01
    assert batch_p_value(batch, calibration, "fisher") > 0.9
    assert batch_p_value(batch, calibration, "rank_sum") > 0.9


def test_fisher_finds_few_bad_inputs_before_the_rank_sum():
    calibration = draw(500, 0, 0)
    batch = torch.cat([draw(100, -0.1, 2), torch.full((6,), -9.0)])
    assert batch_p_value(batch, calibration, "fisher") < batch_p_value(batch, calibration, "rank_sum") / 3


def test_equal_scores_show_nothing():
    for statistic in STATISTICS:
        assert batch_p_value(torch.zeros(5), torch.zeros(20), statistic, n_permutations=99) == 1


def test_it_repeats_with_its_seed_and_the_order_of_inputs_does_not_matter():
    batch, calibration = draw(20, 0, 0), draw(50, 0, 1)
    first = batch_p_value(batch, calibration, seed=7)
    assert batch_p_value(batch.flip(0), calibration.flip(0), seed=7) == first


def test_what_is_not_a_number_is_the_least_typical_of_all():
    calibration = draw(50, 0, 1)
    assert batch_p_value(torch.tensor([torch.nan]), calibration, n_permutations=999) < 0.06


def test_bad_samples_are_refused_in_words():
    with pytest.raises(ValueError, match="batch scores: expected shape"):
        batch_p_value(torch.zeros(0), torch.zeros(3))
    with pytest.raises(ValueError, match="calibration scores: expected numbers; 1 of 2"):
        batch_p_value(torch.zeros(2), torch.tensor([1.0, torch.nan]))
    with pytest.raises(ValueError, match="statistic: expected one of fisher, rank_sum, kolmogorov"):
        batch_p_value(torch.zeros(2), torch.zeros(3), "energy")
