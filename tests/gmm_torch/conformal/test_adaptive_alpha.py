import json
import math

import pytest
import torch

from gmm_torch.conformal.adaptive_alpha import CONTROLS, AdaptiveAlpha

RATES = [(0.01,), (0.2,), (0.005, 0.02, 0.08)]


def uniform(n, seed=0):
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def adversaries(alpha, t):
    """P-values that know alpha: always just refused, never, by turns in growing stretches, and at random."""
    just = min(max(alpha, 0.0), 1.0)
    above = min(1.0, just + 1e-9)
    return [just, above, just if int(math.log2(t + 1)) % 2 else above, 1.0 if t % 7 else 0.0]


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("which", range(4))
def test_the_share_refused_is_within_its_bound_at_any_time_on_an_adversarys_stream(rates, which):
    adaptive = AdaptiveAlpha(0.1, rates=rates)
    for t in range(1500):
        adaptive.update(torch.tensor([adversaries(adaptive.alpha, t)[which]], dtype=torch.float64))
        assert abs(adaptive.rate - 0.1) <= adaptive.bound + 1e-12
    assert adaptive.bound < 0.3


def test_a_fixed_alpha_breaks_the_bound_on_such_a_stream():
    adaptive = AdaptiveAlpha(0.1, rates=(0.1,))
    shifted = uniform(2000) ** 3  # p-values of another place
    found = adaptive.update(shifted)
    assert abs(float(found.refused.double().mean()) - 0.1) <= adaptive.bound < 0.01
    assert float((shifted <= 0.1).double().mean()) > 0.1 + 10 * adaptive.bound


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("late", [0, 40])
def test_false_alarms_are_within_their_bound_where_labels_come_late_or_never(rates, late):
    adaptive, g = AdaptiveAlpha(0.1, "refused_among_right", rates), torch.Generator().manual_seed(1)
    right = torch.rand(1500, generator=g) < 0.7
    told = torch.rand(1500, generator=g) < 0.5
    refused = torch.zeros(1500, dtype=torch.bool)
    for t in range(1500):
        p = adversaries(adaptive.alpha, t)[2]
        refused[t] = adaptive.update(torch.tensor([p], dtype=torch.float64)).refused
        known = t - late
        if known >= 0 and told[known]:
            adaptive.label(torch.tensor([known]), right[known : known + 1])
            assert abs(adaptive.rate - 0.1) <= adaptive.bound + 1e-12 or not adaptive.n_outcomes
    seen = told & right & (torch.arange(1500) < 1500 - late)
    assert adaptive.rate == pytest.approx(float(refused[seen].double().mean()))
    assert adaptive.n_outcomes == int(seen.sum())
    assert adaptive.most_late <= late


@pytest.mark.parametrize("late", [0, 40])
def test_errors_among_accepted_are_at_most_their_bound_above_the_target(late):
    adaptive, g = AdaptiveAlpha(0.1, "wrong_among_accepted", (0.02,)), torch.Generator().manual_seed(2)
    p = torch.rand(3000, generator=g, dtype=torch.float64)
    share = torch.where(torch.arange(3000) < 1500, 0.05, 0.6)  # of errors: then much worse, where p is low
    wrong = torch.rand(3000, generator=g) < share * 1.5 * (1 - p)
    for t in range(3000):
        adaptive.update(p[t : t + 1])
        if t >= late:
            adaptive.label(torch.tensor([t - late]), ~wrong[t - late : t - late + 1])
            assert adaptive.rate <= 0.1 + adaptive.bound + 1e-12 or not adaptive.n_outcomes
    assert adaptive.alpha > 0.4  # it followed
    assert float(wrong[1500:].double().mean()) > 0.4


def test_where_nothing_is_right_it_ends_with_refusing_everything_and_says_so():
    adaptive = AdaptiveAlpha(0.1, "wrong_among_accepted", (0.1,))
    for t in range(30):
        adaptive.update(torch.ones(1))
        adaptive.label(torch.tensor([t]), torch.tensor([False]))
    assert adaptive.alpha >= 1
    assert adaptive.rate <= 0.1 + adaptive.bound
    assert "refuses everything: start anew" in repr(adaptive)


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("controls", CONTROLS)
def test_in_whatever_pieces_and_after_a_pause_the_decisions_are_the_same(rates, controls):
    if controls == "wrong_among_accepted":
        rates = rates[:1]
    p, right = uniform(60), uniform(60, 1) < 0.8
    whole = AdaptiveAlpha(0.2, controls, rates)
    pieces = AdaptiveAlpha(0.2, controls, rates)
    first, second = whole.update(p[:40]), None
    parts = [pieces.update(piece).refused for piece in p[:40].split(7)]
    assert torch.equal(torch.cat(parts), first.refused)
    for each in (whole, pieces):
        if controls != "refused":
            each.label(torch.arange(30), right[:30])
    later = AdaptiveAlpha(0.2, controls, rates)
    later.load_state_dict(json.loads(json.dumps(pieces.state_dict())))
    second, third = whole.update(p[40:]), later.update(p[40:])
    assert (second.first, third.first) == (40, 40)
    assert torch.equal(second.alpha, third.alpha)
    assert repr(later) == repr(whole)


def test_several_rates_by_hand_and_they_follow_an_abrupt_change_better_than_the_smallest():
    adaptive = AdaptiveAlpha(0.5, rates=(0.1, 0.3))
    adaptive.update(torch.tensor([0.7]))  # accepted
    eta = math.sqrt(3 / 500 * (math.log(1000) + 2) / (2 * 0.5**5))
    assert adaptive.levels == pytest.approx([0.55, 0.65])
    assert adaptive.weights == pytest.approx([0.5, 0.5])
    assert adaptive.correction == pytest.approx(0.05)
    adaptive.update(torch.tensor([0.6]))  # accepted by the first, refused by the second
    losses = [0.5 * 0.05, 0.5 * -0.05 + 0.05]
    gains = [math.exp(-eta * loss) for loss in losses]
    assert adaptive.weights[0] == pytest.approx((1 - 1e-3) * gains[0] / sum(gains) + 5e-4)

    p = torch.cat([uniform(2000), uniform(2000, 1) ** 4])
    far = []
    for rates in ((0.002,), (0.002, 0.01, 0.05)):
        refused = AdaptiveAlpha(0.1, rates=rates).update(p).refused.double()
        far.append(float((refused[2000:2400].mean() - 0.1).abs()))
    assert far[1] < far[0] / 2


def test_bad_arguments_are_refused_in_words():
    with pytest.raises(ValueError, match="controls: expected one of refused, refused_among_right"):
        AdaptiveAlpha(0.1, "errors")
    for rates in ((), (0.0,), (0.1, 1.0)):
        with pytest.raises(ValueError, match="rates: expected one or more numbers between 0 and 1"):
            AdaptiveAlpha(0.1, rates=rates)
    with pytest.raises(ValueError, match="rates: expected one for 'wrong_among_accepted'"):
        AdaptiveAlpha(0.1, "wrong_among_accepted", (0.1, 0.2))
    with pytest.raises(ValueError, match="target: expected"):
        AdaptiveAlpha(1.0)
    adaptive = AdaptiveAlpha(0.1)
    assert "promises nothing" in repr(adaptive)
    with pytest.raises(ValueError, match="p-values: expected"):
        adaptive.update(torch.tensor([0.1, torch.nan]))
    assert adaptive.n_outcomes == 0
    assert adaptive.update(torch.empty(0)).refused.dtype == torch.bool
    with pytest.raises(ValueError, match="labels: expected none"):
        adaptive.label(torch.tensor([0]), torch.tensor([True]))
    late = AdaptiveAlpha(0.1, "refused_among_right", memory=2)
    late.update(torch.ones(5))
    for index, message in ((5, "inputs that were judged, 0 to 4; got 5"), (0, "came too long ago")):
        with pytest.raises(ValueError, match=message):
            late.label(torch.tensor([index]), torch.tensor([True]))
