import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gmm_torch.conformal.p_values import (
    calibration_size,
    conformal_p_value,
    exceeds,
    level,
    realised_rate,
    smoothed_p_value,
    stream_uniforms,
    threshold_index,
    usual_share,
)

finite = st.floats(-1e6, 1e6, width=32)


def test_hand_computed_ranks_with_ties():
    calibration = torch.tensor([1.0, 2.0, 2.0, 5.0])
    score = torch.tensor([0.0, 1.0, 2.0, 4.9, 5.0, torch.inf, torch.nan])
    torch.testing.assert_close(conformal_p_value(score, calibration), torch.tensor([1, 2, 4, 4, 5, 5, 1]).double() / 5)


@given(st.lists(finite, min_size=1, max_size=30), st.lists(finite, min_size=1, max_size=10))
def test_the_formula_holds_for_every_input(calibration, scores):
    expected = [(1 + sum(c <= s for c in calibration)) / (len(calibration) + 1) for s in scores]
    got = conformal_p_value(torch.tensor(scores), torch.tensor(calibration).sort().values)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=0)


@pytest.mark.parametrize(("alpha", "n"), [(0.05, 19), (0.1, 9), (0.01, 99), (0.5, 1), (0.3, 3)])
def test_the_smallest_calibration_set_that_can_refuse(alpha, n):
    assert calibration_size(alpha) == n
    assert threshold_index(alpha, n) == 1
    assert threshold_index(alpha, n - 1) == 0


@given(
    st.lists(finite, min_size=1, max_size=60),
    st.lists(finite, min_size=1, max_size=20),
    st.sampled_from([0.01, 0.05, 0.1, 0.2, 0.5]),
)
def test_p_above_alpha_is_a_score_at_or_above_the_kth_calibration_score(calibration, scores, alpha):
    ordered = torch.tensor(calibration).sort().values
    scores = torch.tensor(scores)
    k = threshold_index(alpha, len(ordered))
    threshold = ordered[k - 1] if k else torch.tensor(-torch.inf)
    rank = (1 + (ordered <= scores[:, None]).sum(1)).double()
    accept = rank > alpha * (len(ordered) + 1) + 1e-9
    assert torch.equal(accept, scores >= threshold)


def test_smoothed_p_values_by_hand():
    calibration = torch.tensor([1.0, 2.0, 2.0, 5.0])
    score = torch.tensor([0.0, 2.0, 5.0, 9.0, torch.nan])
    # nothing below and itself; one below and three equal; three below and two equal; four below and itself
    expected = torch.tensor([0.5, 1 + 0.5 * 3, 3 + 0.5 * 2, 4.5, 0.5]).double() / 5
    torch.testing.assert_close(smoothed_p_value(score, calibration, torch.full((5,), 0.5)), expected)


@given(st.lists(finite, min_size=1, max_size=30), st.lists(finite, min_size=1, max_size=10), st.floats(1e-3, 1))
def test_the_smoothed_p_value_is_never_above_the_other_and_equals_it_at_one(calibration, scores, u):
    ordered, score = torch.tensor(calibration).sort().values, torch.tensor(scores)
    plain = conformal_p_value(score, ordered)
    assert bool((smoothed_p_value(score, ordered, torch.full_like(score, u)) <= plain).all())
    torch.testing.assert_close(smoothed_p_value(score, ordered, torch.ones_like(score)), plain)


def test_the_draws_of_a_stream_do_not_depend_on_its_batches():
    whole = stream_uniforms(100, seed=3)
    pieces = torch.cat([stream_uniforms(size, 3, start) for start, size in ((0, 1), (1, 60), (61, 39))])
    assert torch.equal(whole, pieces)
    assert not torch.equal(whole, stream_uniforms(100, seed=4))
    assert whole.min() > 0
    assert whole.max() <= 1
    assert len(whole.unique()) == 100
    assert stream_uniforms(0, 3).shape == (0,)


@pytest.mark.parametrize("seed", [-1, 1.5, True])
def test_a_seed_of_draws_is_a_whole_number_from_zero_on(seed):
    with pytest.raises(ValueError, match="seed: expected"):
        stream_uniforms(1, seed)


@pytest.mark.filterwarnings("error")
def test_a_compiler_takes_the_level_as_the_constant_that_it_is():
    def constant():
        return None

    assert vars(level) == vars(torch.compiler.assume_constant_result(constant))
    count = torch.arange(1, 102)
    compiled = torch.compile(lambda count: exceeds(count, 101, 0.05), fullgraph=True, backend="eager")
    assert compiled(count).equal(exceeds(count, 101, 0.05))


def test_realised_rates_and_usual_shares_are_quantiles():
    assert realised_rate(10, 213) == pytest.approx(stats.beta(10, 204).ppf([0.025, 0.975]))
    assert usual_share(15, 300, 320) == pytest.approx(stats.betabinom(320, 15, 286).ppf([0.025, 0.975]) / 320)
    assert usual_share(15, 300, 10**7) == pytest.approx(realised_rate(15, 300), abs=1e-4)
    assert realised_rate(0, 5) == usual_share(0, 5, 3) == (0, 0)
    for call in (lambda: realised_rate(6, 5), lambda: realised_rate(1, 5, 1.0), lambda: usual_share(1, 5, 0)):
        with pytest.raises(ValueError, match="expected"):
            call()


def test_new_inputs_have_a_share_in_it_as_often_as_it_says():
    random = np.random.default_rng(0)
    calibration, new = np.sort(random.random((4000, 60)), 1), random.random((4000, 50))
    shares = (new < calibration[:, 2:3]).mean(1)
    (low, high), (narrow_low, narrow_high) = usual_share(3, 60, 50, 0.9), realised_rate(3, 60, 0.9)
    slack = 4 * np.sqrt(0.09 / 4000)  # false alarm 3e-5 on a side
    assert np.mean((low <= shares) & (shares <= high)) > 0.9 - slack
    assert abs(np.mean((narrow_low < calibration[:, 2]) & (calibration[:, 2] < narrow_high)) - 0.9) < slack
