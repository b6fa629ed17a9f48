import math

import pytest
import torch

from gmm_torch.conformal.e_values import e_discoveries, soft_rank_e_values

CALIBRATION = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_by_hand():
    bag = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    weights = (-2 * (bag - bag.mean()) / bag.std(correction=0)).exp()
    found = soft_rank_e_values(bag[:1], bag[1:])
    assert float(found) == pytest.approx(float(3 * weights[0] / weights.sum()))


def test_the_shares_of_a_bag_sum_to_its_size():
    bag = torch.randn(9, generator=torch.Generator().manual_seed(1)).round()
    shares = [soft_rank_e_values(bag[i : i + 1], torch.cat([bag[:i], bag[i + 1 :]])) for i in range(9)]
    assert float(sum(shares)) == pytest.approx(9)


def test_extreme_scores_give_all_or_nothing_and_never_nan():
    scores = torch.tensor([-torch.inf, torch.nan, torch.inf, -1e30, 1e30, -1e300], dtype=torch.float64)
    found = soft_rank_e_values(scores, CALIBRATION)
    assert found[:3].tolist() == [51, 51, 0]
    assert float(found[3]) == pytest.approx(51, rel=1e-3)
    assert float(found[4]) < 1.01  # no evidence: beside it all others are alike
    assert found.isfinite().all()
    assert soft_rank_e_values(torch.ones(2), torch.ones(5)).tolist() == [1, 1]
    assert soft_rank_e_values(torch.zeros(1), torch.zeros(5)).tolist() == [1]
    assert soft_rank_e_values(torch.empty(0), CALIBRATION).shape == (0,)


def test_scale_and_place_do_not_matter():
    scores = torch.linspace(-4, 1, 7, dtype=torch.float64)
    moved = soft_rank_e_values(1e-200 * (scores - 7), 1e-200 * (CALIBRATION - 7))
    torch.testing.assert_close(soft_rank_e_values(scores, CALIBRATION), moved)


def test_discoveries_by_hand():
    # m / q = 20: one of 20, two of 10, three of 20/3
    assert e_discoveries(torch.tensor([25.0, 0.5, 1.0, 0.0]), 0.2).tolist() == [True, False, False, False]
    assert e_discoveries(torch.tensor([10.0, 0.5, 10.0, 0.0]), 0.2).tolist() == [True, False, True, False]
    assert not e_discoveries(torch.tensor([9.0, 0.5, 9.0, 0.0]), 0.2).any()
    assert e_discoveries(torch.tensor([math.inf]), 0.5).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_discoveries_are_exact_in_every_precision(dtype):
    # m / q = 2^17, which float16 has not: four of 2^15 are enough, and three with one of a little less are not
    e_values = torch.zeros(2**16, dtype=dtype)
    e_values[:4] = 2.0**15
    assert e_discoveries(e_values, 0.5).nonzero()[:, 0].tolist() == [0, 1, 2, 3]
    assert torch.equal(e_discoveries(e_values.long(), 0.5), e_values > 0)
    assert e_discoveries(torch.tensor([20 / 3, 20 / 3, 20 / 3, 0], dtype=dtype), 0.2).sum() == 3
    e_values[3] = 2.0**15 * (1 - 8 * torch.finfo(dtype).eps)
    assert not e_discoveries(e_values, 0.5).any()


def test_bad_arguments_are_refused_in_words():
    with pytest.raises(ValueError, match="calibration scores: expected finite numbers"):
        soft_rank_e_values(CALIBRATION, torch.tensor([torch.inf]))
    with pytest.raises(ValueError, match="sharpness: expected a finite number above 0; got 0"):
        soft_rank_e_values(CALIBRATION, CALIBRATION, 0)
    with pytest.raises(ValueError, match="e-values: expected numbers >= 0"):
        e_discoveries(torch.tensor([-1.0]), 0.1)
    with pytest.raises(ValueError, match=r"e-values: expected real numbers; got torch\.complex64"):
        e_discoveries(torch.tensor([1j]), 0.1)
    with pytest.raises(ValueError, match="q: expected"):
        e_discoveries(torch.tensor([1.0]), 0.0)
