import math

import pytest
import torch
from scipy import integrate

from gmm_torch.conformal.martingale import (
    CHUNK,
    LINEAR,
    POWER,
    bet,
    first_alarm,
    online_p_values,
    opening_capital,
    payoffs_of,
)
from gmm_torch.conformal.p_values import smoothed_p_value


def uniforms(*shape, seed=0):
    return 1 - torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_each_input_is_ranked_among_calibration_and_earlier_inputs_by_hand():
    seen, scores = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0, 0.0])
    ranked = online_p_values(scores, torch.full((3,), 0.5), seen)
    # one below of two; one below and one equal of three; none below of four
    expected = torch.tensor([(1 + 0.5) / 3, (1 + 0.5 * 2) / 4, 0.5 / 5]).double()
    torch.testing.assert_close(ranked.p_value, expected)
    assert ranked.seen.tolist() == [0, 1, 2, 2, 3]


def test_each_p_value_is_the_smoothed_one_of_all_before():
    scores, u = torch.randint(5, (40,), generator=torch.Generator().manual_seed(0)).float(), uniforms(30)
    ranked = online_p_values(scores[10:], u, scores[:10].sort().values)
    for t in range(30):
        before = scores[: 10 + t].sort().values
        torch.testing.assert_close(ranked.p_value[t], smoothed_p_value(scores[10 + t, None], before, u[t, None])[0])


def test_pieces_of_a_stream_give_what_the_whole_gives():
    n = CHUNK + 50
    scores, u = torch.randn(n, generator=torch.Generator().manual_seed(0)).mul(4).round(), uniforms(n)
    whole = online_p_values(scores, u, torch.empty(0))
    first = online_p_values(scores[:70], u[:70], torch.empty(0))
    second = online_p_values(scores[70:], u[70:], first.seen)
    torch.testing.assert_close(whole.p_value, torch.cat([first.p_value, second.p_value]))
    bets = bet(whole.p_value)
    opening = bet(first.p_value)
    torch.testing.assert_close(bets.log_path[70:], bet(second.p_value, opening.capital).log_path)


def test_several_streams_at_once_give_what_each_gives():
    scores, u = torch.randn(3, 20, generator=torch.Generator().manual_seed(0)), uniforms(3, 20)
    together = bet(online_p_values(scores, u, torch.zeros(3, 0)).p_value).log_path
    for row in range(3):
        alone = bet(online_p_values(scores[row], u[row], torch.empty(0)).p_value).log_path
        torch.testing.assert_close(together[row], alone)


@pytest.mark.parametrize("which", range(len(LINEAR) + len(POWER)))
def test_every_bet_is_fair(which):
    def payoff(p):
        return float(payoffs_of(torch.tensor([p], dtype=torch.float64))[0, which])

    assert integrate.quad(payoff, 0, 1)[0] == pytest.approx(1, abs=1e-6)


def test_the_jumper_by_hand():
    capital = opening_capital()
    n_bets = len(LINEAR) + len(POWER)
    shares = [1 / n_bets] * n_bets
    total = 0.0
    for p in (0.2, 0.7):
        payoffs = [1 + e * (p - 0.5) for e in LINEAR] + [k * p ** (k - 1) for k in POWER]
        shares = [(0.9 * share + 0.1 / n_bets) * f for share, f in zip(shares, payoffs, strict=True)]
        total += math.log(sum(shares))
        shares = [share / sum(shares) for share in shares]
    wager = bet(torch.tensor([0.2, 0.7]).double(), capital, jump=0.1)
    assert float(wager.log_path[-1]) == pytest.approx(total)
    assert wager.capital.shares.tolist() == pytest.approx(shares)


def test_small_p_values_make_rich_and_middling_ones_do_not():
    assert float(bet(torch.full((50,), 0.01)).log_path[-1]) > 50
    assert float(bet(torch.full((50,), 0.5)).log_path[-1]) < 0
    assert float(bet(torch.full((200,), 0.95)).log_path[-1]) > math.log(100)  # too typical is a drift too


def test_a_very_long_or_very_improbable_stream_stays_finite():
    assert torch.isfinite(bet(torch.zeros(100)).log_path).all()
    assert torch.isfinite(bet(torch.full((20_000,), 1e-6)).log_path).all()


def test_the_alarm_is_the_first_time_the_capital_gets_there():
    path = torch.tensor([0.0, 5.0, 1.0, 9.0])
    assert first_alarm(path, math.exp(4)) == 1
    assert first_alarm(path, 1e9) is None
    with pytest.raises(ValueError, match="threshold: expected a capital above 1"):
        first_alarm(path, 0.01)


def test_an_empty_piece_changes_nothing():
    ranked = online_p_values(torch.empty(0), torch.empty(0), torch.tensor([1.0]))
    wager = bet(ranked.p_value)
    assert wager.log_path.shape == (0,)
    assert wager.capital.log_capital == 0
    assert ranked.seen.tolist() == [1]
