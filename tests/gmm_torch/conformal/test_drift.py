import math
import pickle

import pytest
import torch
from scipy import integrate, stats

from gmm_torch.conformal import make_calibration
from gmm_torch.conformal.drift import (
    _CHUNK,
    _LEVELS,
    _LINEAR,
    _POWER,
    _STAKES,
    DriftMonitor,
    Window,
    _payoffs,
    _ReferenceBets,
    bet,
    component_changes,
    online_p_values,
    onset,
    stretches,
)
from gmm_torch.conformal.p_values import smoothed_p_value, stream_uniforms

REFERENCE = torch.randn(200, generator=torch.Generator().manual_seed(0))
SCORES = torch.cat([torch.randn(60, generator=torch.Generator().manual_seed(1)), torch.full((40,), -9.0)])
TIMES = torch.linspace(1000.0, 1399.0, 100, dtype=torch.float64)  # 4 s apart
MODES = ({}, {"against": "reference"}, {"against": "reference", "promise": "set"})


def windows(keep=1000):
    return DriftMonitor(REFERENCE, against="reference", seconds=100, keep=keep)


def test_each_p_value_is_the_smoothed_one_of_all_before():
    n = _CHUNK + 30
    scores = torch.randint(5, (10 + n,), generator=torch.Generator().manual_seed(0)).float()
    u = stream_uniforms(n, 0)
    p, seen = online_p_values(scores[10:], u, scores[:10].sort().values)
    for t in range(0, n, 7):
        before = scores[: 10 + t].sort().values
        torch.testing.assert_close(p[t], smoothed_p_value(scores[10 + t, None], before, u[t, None])[0])
    assert torch.equal(seen, scores.sort().values)


@pytest.mark.parametrize("which", range(len(_LINEAR) + len(_POWER)))
def test_every_bet_on_p_values_is_fair(which):
    def payoff(p):
        return float(_payoffs(torch.tensor([p], dtype=torch.float64))[0, which])

    assert integrate.quad(payoff, 0, 1)[0] == pytest.approx(1, abs=1e-6)


def test_the_jumper_by_hand():
    n_bets = len(_LINEAR) + len(_POWER)
    shares, total = [1 / n_bets] * n_bets, 0.0
    for p in (0.2, 0.7):
        payoffs = [1 + e * (p - 0.5) for e in _LINEAR] + [k * p ** (k - 1) for k in _POWER]
        shares = [(0.9 * share + 0.1 / n_bets) * f for share, f in zip(shares, payoffs, strict=True)]
        total += math.log(sum(shares))
        shares = [share / sum(shares) for share in shares]
    wager = bet(torch.tensor([0.2, 0.7]).double(), jump=0.1)
    assert float(wager.log_capital) == pytest.approx(total)
    assert wager.shares.tolist() == pytest.approx(shares)


def test_extreme_and_long_streams_stay_finite():
    assert bet(torch.zeros(100)).log_path.isfinite().all()
    assert bet(torch.full((20_000,), 1e-6)).log_path.isfinite().all()


def test_payoffs_against_the_reference_by_hand():
    n, k = 200, max(1, int(0.2 * 201))
    edge = REFERENCE.sort().values[k - 1]
    scores = torch.stack([edge - 0.001, edge + 0.001, edge - 0.001])
    column = 1 + _LEVELS.index(0.2)  # of the smaller stake
    chances = [k / (n + 1), (k + 1) / (n + 2), (k + 1) / (n + 3)]
    expected = [1 + _STAKES[0] * (event / chance - 1) for event, chance in zip((1, 0, 1), chances, strict=True)]
    assert _ReferenceBets(REFERENCE, 0, None).payoffs(scores, 0)[:, column].tolist() == pytest.approx(expected)
    bound = stats.beta.isf(0.01 / (2 * len(_LEVELS)), k, n + 1 - k)
    given_the_set = _ReferenceBets(REFERENCE, 0, 0.01).payoffs(scores, 0)[:, column]
    assert given_the_set.tolist() == pytest.approx([1 + _STAKES[0] * (event / bound - 1) for event in (1, 0, 1)])


@pytest.mark.parametrize("options", MODES)
def test_batches_and_a_pause_change_nothing(options):
    reference, stream = REFERENCE.round(decimals=1), SCORES.round(decimals=1)  # with ties
    whole, parts = (DriftMonitor(each, **options) for each in (reference, reference.flip(0)))
    alarms = whole.update(stream)
    found = [alarm for part in stream[:71].split(9) for alarm in parts.update(part)]
    assert parts.update(stream[:0]) == []
    later = pickle.loads(pickle.dumps(parts))
    with torch.inference_mode():
        found += later.update(stream[71:])
    assert found == alarms == [whole.alarm_at]
    assert 60 < alarms[0] < 80
    assert later.log_capital == pytest.approx(whole.log_capital, rel=1e-12)
    assert later.n_seen == whole.n_seen == 100


@pytest.mark.parametrize("options", MODES)
def test_both_ends_count_and_nan_is_the_least_typical(options):
    for scores in (torch.full((60,), -9.0), torch.full((60,), 9.0), torch.full((60,), torch.nan)):
        assert DriftMonitor(REFERENCE, **options).update(scores)
    assert not DriftMonitor(REFERENCE, **options).update(SCORES[:60])


def test_without_calibration_scores_the_stream_is_its_own_reference():
    scores = torch.cat([REFERENCE, SCORES[:60] - 3])
    (alarm,) = DriftMonitor(torch.empty(0), threshold=1000).update(scores)
    assert alarm > 200


def test_given_the_set_memory_is_bounded_and_evidence_keeps_growing():
    monitor = DriftMonitor(torch.randn(2000, generator=torch.Generator().manual_seed(2)), **MODES[2])
    size = len(pickle.dumps(monitor))
    gains = []
    for part in (torch.randn(900, generator=torch.Generator().manual_seed(3)) - 0.8).split(300):
        monitor.update(part)
        gains.append(monitor.log_capital)
    assert len(pickle.dumps(monitor)) < size + 4000
    assert gains[2] - gains[1] > 0.5 * gains[0]


def test_each_window_has_a_bet_of_its_own():
    whole, parts = windows(), windows()
    assert whole.update(SCORES, TIMES) == [window.alarm_at for window in whole.windows[2:]]
    assert [window.start for window in whole.windows] == [1000, 1100, 1200, 1300]
    assert sum(window.n for window in whole.windows) == 100
    assert [window.alarm_at is not None for window in whole.windows] == [False, False, True, True]
    inside = (TIMES >= 1300).nonzero()[:, 0]
    assert inside[0] < whole.windows[3].alarm_at <= inside[-1]
    alone = DriftMonitor(REFERENCE, against="reference")
    alone.update(SCORES[inside])
    assert whole.windows[3].log_maximum == pytest.approx(alone.windows[0].log_maximum)
    for scores, times in zip(SCORES.split(9), TIMES.split(9), strict=True):
        parts.update(scores, times)
    assert [window[:3] for window in parts.windows] == [window[:3] for window in whole.windows]
    assert whole.window_at(1399.5) == whole.windows[-1]
    assert whole.window_at(1400.0) == Window(1400)


def test_old_windows_are_forgotten_and_empty_ones_do_not_appear():
    monitor = windows(keep=2)
    monitor.update(SCORES, TIMES)
    assert [window.start for window in monitor.windows] == [1200, 1300]
    monitor = windows()
    monitor.update(SCORES[:2], torch.tensor([0.0, 950.0]))
    assert [window.start for window in monitor.windows] == [0, 900]


def test_wrong_times_are_an_error_and_change_nothing():
    monitor = windows()
    monitor.update(SCORES[:50], TIMES[:50])
    before = pickle.dumps(monitor)
    for scores, times in (
        (SCORES[:1], TIMES[:1]),
        (SCORES[50:], TIMES[50:].flip(0)),
        (SCORES[:1], torch.tensor([torch.nan])),
        (SCORES, TIMES[:3]),
        (SCORES, None),
    ):
        with pytest.raises(ValueError, match="times: expected"):
            monitor.update(scores, times)
    assert pickle.dumps(monitor) == before


def test_bad_arguments_are_refused():
    for scores, options, name in (
        (torch.empty(0), {"against": "reference"}, "calibration scores"),
        (torch.tensor([torch.nan]), {}, "calibration scores"),
        (torch.tensor([torch.inf]), {"against": "reference"}, "calibration scores"),
        (REFERENCE, {"threshold": 0.01}, "threshold"),
        (REFERENCE, {"against": "both"}, "against"),
        (REFERENCE, {"promise": "both"}, "promise"),
        (REFERENCE, {"seconds": 60}, "seconds"),
    ):
        with pytest.raises(ValueError, match=f"{name}: expected"):
            DriftMonitor(scores, **options)
    with pytest.raises(ValueError, match="scores: expected"):
        DriftMonitor(REFERENCE).update(torch.zeros(2, 2))


@pytest.mark.parametrize(
    ("length", "seconds"), [(90, 90), (1e-5, 1e-5), ("90s", 90), ("15min", 900), ("1.5 h", 5400), ("7d", 604800)]
)
def test_lengths_of_time(length, seconds):
    assert DriftMonitor(REFERENCE, against="reference", seconds=length).seconds == pytest.approx(seconds)


@pytest.mark.parametrize("length", ["", "1 hour", "-1h", 0, "nan", float("inf"), True])
def test_other_lengths_of_time_are_refused(length):
    with pytest.raises(ValueError, match="seconds: expected"):
        DriftMonitor(REFERENCE, against="reference", seconds=length)


def test_components_that_grew_come_with_their_least_typical_inputs():
    before = torch.arange(400) % 4
    now = torch.cat([torch.arange(60) % 4, torch.full((40,), 2)])
    p = torch.cat([torch.linspace(0.1, 1, 60), torch.linspace(0.04, 0.001, 40)]).double()
    (first,) = component_changes(before, now, p, start=1000)  # the others have shrunk
    assert (first.component, first.share_before, first.share_now) == (2, 0.25, 0.55)
    assert first.low < 0.55 < first.high
    raw = stats.fisher_exact([[55, 45], [100, 300]], alternative="greater").pvalue
    assert first.p_value == pytest.approx(4 * raw)  # Holm, of four components
    assert first.has_grown
    assert first.examples == (1099, 1098, 1097, 1096, 1095)
    assert component_changes(before, before[:80], p[:80]) == ()
    with pytest.raises(ValueError, match="components: expected"):
        component_changes(before, now[:3], p)


def test_p_values_over_time():
    p = torch.cat([torch.linspace(0.1, 1, 60), torch.linspace(0.04, 0.001, 40)]).double()
    found = stretches(p, n_stretches=5)
    assert [(each.start, each.n, each.refused) for each in found] == [
        (20 * i, 20, refused) for i, refused in enumerate((0, 0, 0, 1, 1))
    ]
    assert found[4].median == pytest.approx(float(p[80:].median()), abs=1e-3)
    assert stretches(torch.full((4,), 1 / 20), n_stretches=1)[0].refused == 1  # float32, above 0.05 as a float64


@pytest.mark.parametrize("worse", [True, False])
def test_onset_is_near_the_change(worse):
    generator = torch.Generator().manual_seed(0)
    late = []
    for _ in range(50):
        p = torch.rand(400, generator=generator).double()
        p[300:] = p[300:] ** 4 if worse else 1 - (1 - p[300:]) ** 4
        late.append(abs(onset(p) - 300))
    late.sort()
    assert late[25] <= 15
    assert late[45] <= 100
    with pytest.raises(ValueError, match="p-values: expected"):
        onset(torch.empty(0).double())


@pytest.mark.parametrize("odd", [0.0, 1.0])
def test_no_single_input_moves_the_onset(odd):
    assert onset(torch.tensor([0.5] * 500 + [odd] + [0.5] * 200 + [0.01] * 40)) == 701


@pytest.mark.parametrize("calibration", ["marginal", "conditional"])
@pytest.mark.parametrize("digits", [1, 7])
def test_clean_p_values_of_1_and_ties_do_not_move_the_onset(calibration, digits):
    early, n = 0, 50
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        scores = torch.randn(n + 608, generator=generator).mul(10**digits).round() / 10**digits
        scores[-8:] -= 5
        early += onset(make_calibration(calibration).fit(scores[:n], 0.5).p_value(scores[n:])) < 500
    assert early <= 4
