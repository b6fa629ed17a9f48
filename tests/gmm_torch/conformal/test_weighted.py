import warnings

import pytest
import torch

from gmm_torch.conformal.calibration import Calibration
from gmm_torch.conformal.density_ratio import DensityRatio
from gmm_torch.conformal.label_shift import LabelShiftCalibration
from gmm_torch.conformal.weighted import WeightedCalibration
from gmm_torch.conformal.weighted_p_value import effective_sample_size
from gmm_torch.errors import NotFittedError, WeightsWarning


def draw(n, seed, mean=0.0, width=2):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) + mean


def sample(points):
    return points, torch.zeros(len(points), dtype=torch.long), None


NO_CLASS = torch.zeros(400, dtype=torch.long)


def adapted(mean=0.5, **options):
    return WeightedCalibration(**options).adapt(sample(draw(2000, 0)), sample(draw(2000, 1, mean)))


def test_the_ratio_is_near_that_of_two_gaussians_and_one_where_they_agree():
    ratio = DensityRatio().fit(draw(4000, 0), draw(4000, 1, 0.5))
    x = draw(500, 2)
    truth = (x.double() * 0.5 - 0.125).sum(1)
    assert float((ratio(x) - truth).abs().mean()) < 0.15
    assert float(ratio.disagreement) < 0.08
    assert 0 < float(ratio.clipped) < 0.06
    same = DensityRatio().fit(draw(4000, 0), draw(4000, 1))
    assert float(same(x).abs().mean()) < 0.1


@pytest.mark.parametrize("swap", [False, True])
def test_the_ratio_depends_neither_on_order_nor_on_batch_nor_on_units(swap):
    reference, deployment = draw(300, 0), draw(200, 1, 0.7)
    ratio = DensityRatio().fit(reference, deployment)
    x = draw(50, 2)
    again = DensityRatio().fit(reference.flip(0), deployment.flip(0))
    torch.testing.assert_close(again(x), ratio(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.cat([ratio(row[None]) for row in x]), ratio(x), rtol=0, atol=1e-12)
    unit = torch.tensor([1e6, 1e-6])
    scaled = DensityRatio().fit(reference * unit + 3, deployment * unit + 3)
    torch.testing.assert_close(scaled(x * unit + 3)[:5], ratio(x)[:5], rtol=1, atol=0.7)


def test_a_ratio_has_no_nan_whatever_it_is_fitted_to_or_asked():
    constant = torch.full((40, 3), 2.0)
    for reference, deployment in (
        (constant, constant),
        (constant, constant + 1e-3),
        (draw(40, 0, width=3), constant),
        (draw(40, 0, width=3) * 1e15, draw(40, 1, width=3) * 1e-15),
        (draw(20, 0, width=30), draw(20, 1, width=30)),
    ):
        ratio = DensityRatio().fit(reference, deployment)
        for x in (reference, deployment, torch.full_like(reference, 1e30), torch.full_like(reference, -3e38)):
            assert not ratio(x).isnan().any()
            assert bool((ratio(x) <= torch.tensor(5.0).double().log()).all())
        assert bool(torch.isfinite(ratio.disagreement))


def test_weights_that_are_mostly_cut_are_warned_of():
    with pytest.warns(WeightsWarning, match=r"100\.0% .* were cut to max_weight=5: .* choose a larger max_weight"):
        calibration = adapted(6.0)
    assert "so many that the rate may be far above alpha: check it on good inputs" in repr(calibration)
    moved = f"{float(calibration.ratio.disagreement):.0%} of their sum on other inputs"
    assert f"; weights learnt by logistic regression would lay {moved}" in repr(calibration)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "so many" not in repr(adapted(0.5))


@pytest.mark.parametrize(("mean", "said"), [(0.0, True), (0.5, False)])
def test_where_no_shift_is_found_plain_calibration_is_advised(mean, said):
    calibration = adapted(mean)
    assert ("no shift was found (p = 0." in repr(calibration)) == said
    assert ("try plain calibration first" in repr(calibration)) == said
    again = WeightedCalibration()
    again.load_state_dict(calibration.state_dict())
    assert repr(again) == repr(calibration)


def test_the_p_value_of_no_shift_is_small_for_few_draws_of_none():
    draws = [DensityRatio(n_components=1).fit(draw(200, i), draw(200, 1000 + i)) for i in range(60)]
    assert sum(float(ratio.p_of_no_shift) <= 0.1 for ratio in draws) <= 14  # of 60 at 0.1: more once in 1,500 times


def test_what_no_ratio_can_be_learnt_from_is_refused_in_words():
    with pytest.raises(ValueError, match="deployment inputs: expected at least 20; got 19: give more"):
        DensityRatio().fit(draw(50, 0), draw(19, 1))
    with pytest.raises(ValueError, match="reference statistics: expected finite"):
        DensityRatio().fit(draw(50, 0) * torch.nan, draw(50, 1))
    with pytest.raises(ValueError, match=r"expected \(n, S\) and \(m, S\); got \(50, 2\) and \(50, 3\)"):
        DensityRatio().fit(draw(50, 0), draw(50, 1, width=3))
    for largest in (1, torch.inf, torch.nan):
        with pytest.raises(ValueError, match="max_weight: expected a finite number above 1"):
            WeightedCalibration(max_weight=largest)


def test_it_promises_nothing_before_it_knows_anything_and_says_so():
    calibration = WeightedCalibration()
    assert "no weights yet, promises nothing" in repr(calibration)
    for use in (
        lambda: calibration.log_weights(draw(5, 0), NO_CLASS[:5]),
        lambda: calibration.fit(torch.zeros(400), 0.05, log_weight=torch.zeros(400)),
        lambda: calibration.p_value(torch.zeros(5), log_weight=torch.zeros(5)),
        lambda: calibration.threshold(0.05),
    ):
        with pytest.raises(NotFittedError):
            use()
    calibration = adapted()
    assert "no scores yet, promises nothing" in repr(calibration)
    with pytest.raises(ValueError, match="log-weights: expected one per calibration score; got none"):
        calibration.fit(torch.zeros(400), 0.05, predictions=NO_CLASS)
    statistics = draw(400, 3)
    calibration.fit(statistics[:, 0], 0.05, log_weight=calibration.log_weights(statistics, NO_CLASS))
    assert f"400 scores, effective sample size {calibration.effective_size:.1f}" in repr(calibration)
    with pytest.raises(ValueError, match="log-weights: expected one per score; got none"):
        calibration.p_value(torch.zeros(5))
    calibration.adapt(sample(draw(2000, 0)), sample(draw(2000, 1)))
    with pytest.raises(NotFittedError):  # scores belong to the weights that they were ranked with
        calibration.p_value(torch.zeros(5), log_weight=torch.zeros(5))


def test_weights_that_can_promise_nothing_at_alpha_are_refused():
    statistics = draw(400, 3)
    far = adapted(mean=6.0)
    log_weight = far.log_weights(statistics, NO_CLASS)
    needs = r"sum of at least 95, 19 times the largest weight; got .* from 400 inputs"
    with pytest.raises(ValueError, match=needs) as e:
        far.fit(statistics[:, 0], 0.05, log_weight=log_weight)
    assert "effective sample size" in str(e.value)
    assert "calibrate on good inputs from there" in str(e.value)
    near = adapted(mean=0.1)
    log_weight = near.log_weights(statistics, NO_CLASS)
    with pytest.raises(ValueError, match=r"alpha=0\.05 with .*max_weight=5\.0 needs at least 95 inputs; got 94"):
        near.fit(statistics[:94, 0], 0.05, log_weight=log_weight[:94])
    near.fit(statistics[:, 0], 0.05, log_weight=log_weight)
    assert near.effective_size >= 19
    for calibration, n in ((near, 94), (adapted(mean=2.5), 400)):  # too few; enough that weigh too little
        log_weight = calibration.log_weights(statistics[:n], NO_CLASS[:n])
        with pytest.raises(ValueError, match="or choose a larger alpha or a smaller max_weight"):
            calibration.fit(statistics[:n, 0], 0.05, log_weight=log_weight)
        smaller = adapted(mean=0.1 if n == 94 else 2.5, max_weight=2.0)
        with warnings.catch_warnings(action="ignore", category=WeightsWarning):
            own = smaller.log_weights(statistics[:n], NO_CLASS[:n])
            smaller.fit(statistics[:n, 0], 0.05, log_weight=own)  # as the message says
    with pytest.raises(ValueError, match=r"alpha=0\.001"):
        near.target(0.001)


def test_whatever_scores_less_than_all_is_refused_whatever_it_weighs():
    statistics = draw(400, 3)
    calibration = adapted()
    calibration.fit(statistics[:, 0], 0.05, log_weight=calibration.log_weights(statistics, NO_CLASS))
    heaviest = torch.tensor([torch.inf, torch.nan, 1e9, 2.0, -torch.inf])
    score = torch.full((5,), -torch.inf)
    assert not calibration.accepts(score, alpha=0.05, log_weight=heaviest).any()
    lowest = calibration.threshold(0.05)
    own = calibration.threshold(0.05, log_weight=heaviest)
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


@pytest.mark.parametrize("kind", ["weighted", "label_shift"])
def test_its_state_comes_back_and_a_damaged_one_is_refused(kind):
    statistics, classes = draw(400, 3), torch.arange(400) % 3
    if kind == "weighted":
        saved, make = adapted(), WeightedCalibration
    else:
        given = (statistics, classes, classes)
        saved, make = (
            LabelShiftCalibration(3).adapt(given, (statistics, classes // 2, None)),
            lambda: LabelShiftCalibration(3),
        )
    saved.fit(statistics[:, 0], 0.1, log_weight=saved.log_weights(statistics, classes, classes))
    loaded = make()
    loaded.load_state_dict(saved.state_dict())
    x = draw(50, 4)
    own = saved.log_weights(x, classes[:50])
    assert torch.equal(loaded.log_weights(x, classes[:50]), own)
    assert torch.equal(loaded.p_value(x[:, 0], log_weight=own), saved.p_value(x[:, 0], log_weight=own))
    assert repr(loaded) == repr(saved)
    for name, value in (
        ("log_weights_of_scores", torch.full((400,), torch.nan)),
        ("log_weights_of_scores", torch.zeros(399)),
        ("scores", saved.scores.flip(0)),
    ):
        with pytest.raises(ValueError, match="the state is damaged"):
            make().load_state_dict(saved.state_dict() | {name: value})
    broken = {
        name: torch.full_like(value, torch.nan) for name, value in saved.state_dict().items() if "scores" not in name
    }
    with pytest.raises(ValueError, match=r"expected finite numbers.*; the state is damaged"):
        loaded.load_state_dict(saved.state_dict() | broken)


def test_the_effective_size_falls_with_the_shift():
    statistics = draw(1000, 3)
    sizes = [effective_sample_size(adapted(mean).log_weights(statistics, NO_CLASS)) for mean in (0.0, 0.5, 1.0)]
    assert 900 < sizes[0] <= 1000
    assert sizes[0] > sizes[1] > sizes[2]


def test_the_heaviest_carry_a_share_of_the_weight_by_hand():
    calibration = adapted(mean=0.5)
    weights = torch.tensor([1.0, 4.0, 2.0, 1.0]).repeat(50)
    calibration.fit(torch.arange(200.0), 0.2, log_weight=weights.log())
    assert [calibration.n_carrying(share) for share in (0.0025, 0.25, 0.5, 0.75, 1.0)] == [1, 25, 50, 100, 200]


def test_weights_that_are_worth_few_inputs_are_doubted_aloud():
    statistics = draw(2000, 3)
    near, far = adapted(mean=0.1), adapted(mean=1.2, max_weight=20.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", WeightsWarning)
        near.fit(statistics[:, 0], 0.05, log_weight=near.log_weights(statistics, torch.zeros(2000).long()))
    assert "check" not in repr(near)
    few = statistics[:400]
    with pytest.warns(WeightsWarning, match=r"of 400 scores .* effective sample size of \d\d\.\d; .* check the rate"):
        far.fit(few[:, 0], 0.2, log_weight=far.log_weights(few, NO_CLASS))
    assert "the rate may be several times alpha" in repr(far)
