import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gmm_torch.conformal import Calibration
from gmm_torch.conformal.calibration import Unlabelled
from gmm_torch.conformal.density_ratio import DensityRatio
from gmm_torch.conformal.p_values import conformal_p_value, smoothed_p_value
from gmm_torch.conformal.weighted import WeightedCalibration, effective_sample_size, weighted_p_value
from gmm_torch.errors import NotFittedError, WeightsError, WeightsWarning


def draw(n, seed, mean=0.0, width=2):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) + mean


def sample(points):
    return Unlabelled(points, torch.zeros(len(points), dtype=torch.long))


def adapted(mean=0.5, **options):
    return WeightedCalibration(**options).adapt(sample(draw(2000, 0)), sample(draw(2000, 1, mean)))


def fitted(calibration, statistics, alpha=0.05):
    return calibration.fit(statistics[:, 0], alpha, log_weight=calibration.log_weights(sample(statistics)))


def problem(n, seed, levels=None):
    g = torch.Generator().manual_seed(seed)
    scores, x = torch.randn(n, generator=g).double(), torch.randn(30, generator=g).double()
    if levels:
        scores, x = (scores * levels).round(), (x * levels).round()
    log_weights, own = 2 * torch.randn(n, generator=g).double(), 2 * torch.randn(30, generator=g).double()
    return x, own, scores, log_weights


@given(n=st.integers(1, 60), seed=st.integers(0, 1000), levels=st.sampled_from([None, 1]))
def test_a_p_value_is_the_share_of_weights(n, seed, levels):
    x, own, scores, log_weights = problem(n, seed, levels)
    found = weighted_p_value(x, own, scores, log_weights)
    lower = ((scores <= x[:, None]) * log_weights.exp()).sum(1)
    torch.testing.assert_close(found, (lower + own.exp()) / (log_weights.exp().sum() + own.exp()))
    again = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(weighted_p_value(x, own, scores[again], log_weights[again]), found)  # to the last digit
    torch.testing.assert_close(weighted_p_value(x, own + 700, scores, log_weights + 700), found)  # ratios alone matter


@given(n=st.integers(1, 300), seed=st.integers(0, 1000), constant=st.sampled_from([0.0, -745.0, 1e5, 0.3]))
def test_equal_weights_give_the_plain_p_values_exactly(n, seed, constant):
    x, _, scores, _ = problem(n, seed, 2)
    own, log_weights = torch.full_like(x, constant), torch.full_like(scores, constant)
    ordered = scores.sort().values
    assert torch.equal(weighted_p_value(x, own, scores, log_weights), conformal_p_value(x, ordered))
    u = 1 - torch.rand(len(x), generator=torch.Generator().manual_seed(seed)).double()
    found = weighted_p_value(x, own, scores, log_weights, uniform=u)
    torch.testing.assert_close(found, smoothed_p_value(x, ordered, u), rtol=1e-14, atol=0)


def test_extremes_of_weights_and_scores_have_p_values():
    scores, log_weights = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 1.0, 0.5])
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, 2.0, 2.0, 2.0, 2.0])
    own = torch.tensor([0.0, 0.0, 0.0, torch.inf, torch.nan, -torch.inf, 1e30])
    found = weighted_p_value(x, own, scores, log_weights)
    total = log_weights.double().exp().sum()
    low = float(1 / (1 + total))
    share = float(log_weights[:2].double().exp().sum() / total)
    torch.testing.assert_close(found, torch.tensor([low, 1.0, low, 1.0, 1.0, share, 1.0]).double())
    nothing = torch.full((3,), -torch.inf)
    assert weighted_p_value(x[3:4], nothing[:1], scores, nothing).tolist() == [1.0]
    wide = weighted_p_value(torch.tensor([2.5]), torch.tensor([-2000.0]), scores, torch.tensor([-2000.0, 3000.0, 0.0]))
    assert wide.tolist() == [1.0]
    assert weighted_p_value(x, own, scores[:0], log_weights[:0]).eq(1).all()
    for bad in (
        (own, torch.tensor([torch.nan, 1.0, 2.0]), log_weights),
        (own, scores, torch.tensor([torch.inf, 0.0, 0.0])),
        (own[:6], scores, log_weights),
        (own, scores, log_weights[:2]),
    ):
        with pytest.raises(ValueError, match="scores and log-weights: expected"):
            weighted_p_value(x, *bad)


def test_the_effective_sample_size():
    assert effective_sample_size(torch.full((7,), 800.0)) == pytest.approx(7)
    assert effective_sample_size(torch.tensor([2.0, 1.0]).log()) == pytest.approx(9 / 5)
    assert effective_sample_size(torch.tensor([-torch.inf])) == effective_sample_size(torch.empty(0)) == 0
    statistics = draw(1000, 3)
    sizes = [effective_sample_size(adapted(mean).log_weights(sample(statistics))) for mean in (0.0, 0.5, 1.0)]
    assert 1000 >= sizes[0] > 900 > sizes[1] > sizes[2]


def test_the_ratio_is_near_that_of_two_gaussians_and_one_if_they_agree():
    ratio = DensityRatio().fit(draw(4000, 0), draw(4000, 1, 0.5))
    x = draw(500, 2)
    assert float((ratio(x) - (x.double() * 0.5 - 0.125).sum(1)).abs().mean()) < 0.15
    assert 0 < float(ratio.clipped) < 0.06
    assert float(DensityRatio().fit(draw(4000, 0), draw(4000, 1))(x).abs().mean()) < 0.1


def test_the_ratio_depends_neither_on_order_nor_on_batch():
    reference, deployment, x = draw(300, 0), draw(200, 1, 0.7), draw(50, 2)
    ratio = DensityRatio().fit(reference, deployment)
    again = DensityRatio().fit(reference.flip(0), deployment.flip(0))
    torch.testing.assert_close(again(x), ratio(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.cat([ratio(row[None]) for row in x]), ratio(x), rtol=0, atol=1e-12)


def test_a_ratio_has_no_nan():
    constant = torch.full((40, 3), 2.0)
    for reference, deployment in (
        (constant, constant + 1e-3),
        (draw(40, 0, width=3) * 1e15, draw(40, 1, width=3) * 1e-15),
        (draw(20, 0, width=30), draw(20, 1, width=30)),
    ):
        ratio = DensityRatio().fit(reference, deployment)
        for x in (reference, deployment, torch.full_like(reference, 1e30)):
            assert bool((ratio(x) <= torch.tensor(5.0).double().log()).all())  # False for NaN


def test_the_p_value_of_no_shift_is_rarely_small_without_shift():
    draws = [DensityRatio().fit(draw(200, i), draw(200, 1000 + i)) for i in range(60)]
    assert sum(float(ratio.p_of_no_shift) <= 0.1 for ratio in draws) <= 14  # of 60 at 0.1: more once in 1,500 times
    assert "try plain calibration first" in repr(adapted(0.0))
    assert "try plain calibration first" not in repr(adapted(0.5))


def test_bad_samples_and_options_are_refused():
    for reference, deployment, error in (
        (draw(50, 0), draw(19, 1), WeightsError),
        (draw(50, 0) * torch.nan, draw(50, 1), ValueError),
        (draw(50, 0), draw(50, 1, width=3), ValueError),
    ):
        with pytest.raises(error, match="expected"):
            DensityRatio().fit(reference, deployment)
    for largest in (1, torch.inf, torch.nan):
        with pytest.raises(ValueError, match="max_weight: expected"):
            WeightedCalibration(max_weight=largest)
    calibration = fitted(adapted(), draw(400, 3))
    for use in (lambda: calibration.fit(torch.zeros(400), 0.05), lambda: calibration.p_value(torch.zeros(5))):
        with pytest.raises(ValueError, match="log-weights: expected"):
            use()
    calibration.adapt(sample(draw(2000, 0)), sample(draw(2000, 1)))
    with pytest.raises(NotFittedError):  # scores belong to the weights that they were ranked with
        calibration.p_value(torch.zeros(5), log_weight=torch.zeros(5))


@pytest.mark.filterwarnings("ignore::gmm_torch.errors.WeightsWarning")
def test_weights_that_can_promise_nothing_at_alpha_are_refused_and_the_remedy_works():
    statistics = draw(400, 3)
    with pytest.raises(WeightsError, match=r"sum of at least 95, 19 times the largest weight; .* from 400 inputs"):
        fitted(adapted(mean=6.0), statistics)
    with pytest.raises(ValueError, match=r"alpha=0\.05 with .*max_weight=5\.0 needs at least 95 inputs; got 94"):
        fitted(adapted(mean=0.1), statistics[:94])
    fitted(adapted(mean=0.1, max_weight=2.0), statistics[:94])
    with pytest.raises(WeightsError, match="smaller max_weight"):
        fitted(adapted(mean=2.5), statistics)
    assert len(fitted(adapted(mean=2.5, max_weight=2.0), statistics)) == 400
    with pytest.raises(ValueError, match=r"alpha=0\.001"):
        fitted(adapted(mean=0.1), statistics).target(0.001)


def test_inputs_that_score_less_than_all_are_refused_with_any_weight():
    calibration = fitted(adapted(), draw(400, 3))
    heaviest = torch.tensor([torch.inf, torch.nan, 1e9, 2.0, -torch.inf])
    assert not calibration.accepts(torch.full((5,), -torch.inf), alpha=0.05, log_weight=heaviest).any()
    lowest, own = calibration.threshold(0.05), calibration.threshold(0.05, log_weight=heaviest)
    assert bool((own >= lowest).all())
    assert own[0] == lowest


def test_unit_weights_give_the_plain_calibration():
    scores, x = draw(300, 5)[:, 0], draw(100, 6)[:, 0]
    plain, weighted = Calibration().fit(scores, 0.05), adapted(mean=0.1).fit(scores, 0.05, log_weight=torch.zeros(300))
    own = torch.zeros(100)
    assert torch.equal(weighted.p_value(x, log_weight=own), plain.p_value(x))
    for alpha in (0.03, 0.05, 0.29):
        assert torch.equal(weighted.accepts(x, alpha=alpha, log_weight=own), plain.accepts(x, alpha=alpha))
        assert torch.equal(weighted.threshold(alpha, log_weight=own), plain.threshold(alpha).expand(100))


def test_a_damaged_state_is_refused():
    saved = fitted(adapted(), draw(400, 3))
    for name, value in (
        ("log_weights_of_scores", torch.full((400,), torch.nan)),
        ("log_weights_of_scores", torch.zeros(399)),
        ("ratio.centre", torch.full((2,), torch.nan).double()),
    ):
        with pytest.raises(ValueError, match="the state is damaged"):
            saved.fresh().load_state_dict(saved.state_dict() | {name: value})


def test_the_heaviest_carry_a_share_of_the_weight_by_hand():
    calibration = adapted().fit(
        torch.arange(200.0), 0.2, log_weight=torch.tensor([1.0, 4.0, 2.0, 1.0]).repeat(50).log()
    )
    assert [calibration.n_carrying(share) for share in (0.0025, 0.25, 0.5, 0.75, 1.0)] == [1, 25, 50, 100, 200]


def test_weights_that_are_worth_few_inputs_are_warned_of_with_both_numbers():
    with warnings.catch_warnings():
        warnings.simplefilter("error", WeightsWarning)
        assert "needed" not in repr(fitted(adapted(mean=0.1), draw(2000, 3)))
    far = adapted(mean=1.2, max_weight=20.0)
    with pytest.warns(WeightsWarning, match=r"400 scores, effective sample size \d\d\.\d of at least 100 needed"):
        fitted(far, draw(400, 3), alpha=0.2)
    assert "of at least 100 needed" in repr(far)
    with pytest.warns(WeightsWarning, match=r"99\.\d% .* were cut to max_weight=5"):
        assert "so many that the rate may be far above alpha" in repr(adapted(6.0))
