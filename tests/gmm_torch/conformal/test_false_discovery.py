from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gmm_torch.conformal.false_discovery import adjusted_p_values, discoveries, null_proportion

unit = st.floats(0, 1, width=32)


@given(st.lists(unit, min_size=1, max_size=40))
def test_adjusted_p_values_are_scipys(p):
    expected = torch.from_numpy(stats.false_discovery_control(torch.tensor(p).double().numpy()))
    torch.testing.assert_close(adjusted_p_values(torch.tensor(p)), expected)


def test_the_step_up_procedure_by_hand():
    # m = 4, q = 0.1: thresholds 0.025, 0.05, 0.075, 0.1; the third p-value passes and takes the second along
    p = torch.tensor([0.9, 0.06, 0.02, 0.055])
    assert discoveries(p, 0.1).tolist() == [False, True, True, True]
    assert discoveries(p, 0.05).tolist() == [False, False, False, False]


def test_a_p_value_on_the_threshold_is_a_discovery():
    assert discoveries(torch.tensor([0.05] * 20), 0.05).all()


def test_storeys_estimate_by_hand():
    p = torch.tensor([0.01, 0.02, 0.6, 0.9])
    assert null_proportion(p[:3].repeat(2)) == pytest.approx((1 + 2) / (6 * 0.5))
    assert null_proportion(torch.cat([p, torch.zeros(16)])) == pytest.approx((1 + 2) / (20 * 0.5))


def test_storeys_estimate_is_not_cut_off_at_one():
    p = torch.tensor([0.1, 0.6, 0.7, 0.8])
    assert null_proportion(p) == pytest.approx(2)
    # 2 * 4 * 0.02 / 1 <= 0.2, but not <= 0.1; Benjamini and Hochberg's 4 * 0.02 / 1 is
    p[0] = 0.02
    assert discoveries(p, 0.2, storey=True).tolist() == [True, False, False, False]
    assert discoveries(p, 0.1, storey=True).sum() == 0
    assert discoveries(p, 0.1).sum() == 1


def test_storeys_estimate_finds_more():
    p = torch.cat([torch.full((15,), 0.06), torch.linspace(0.3, 1, 5)])
    assert discoveries(p, 0.05).sum() == 0
    assert discoveries(p, 0.05, storey=True).sum() == 15


@pytest.mark.parametrize("p", [torch.zeros(0), torch.zeros(2, 2), torch.tensor([0.1, torch.nan]), torch.tensor([1.5])])
def test_what_are_no_p_values_is_refused(p):
    with pytest.raises(ValueError, match="p-values: expected"):
        discoveries(p, 0.1)


def test_bad_settings_are_refused():
    p = torch.ones(3)
    with pytest.raises(ValueError, match="q: expected"):
        discoveries(p, 1)
    with pytest.raises(ValueError, match="split: expected"):
        null_proportion(p, 0)
    with pytest.raises(ValueError, match="null_proportion: expected"):
        adjusted_p_values(p, 0)


@given(st.integers(1, 60), st.lists(st.integers(1, 61), min_size=1, max_size=40), st.fractions("1/100", "1/2"))
def test_discoveries_are_those_of_rational_arithmetic(n, ranks, q):
    q = q.limit_denominator(100)
    ranks = [min(k, n + 1) for k in ranks]
    m, ordered = len(ranks), sorted(ranks)
    passed = [k for j, k in enumerate(ordered, 1) if Fraction(k, n + 1) * m <= q * j]
    for dtype in (torch.float32, torch.float64):
        p = (torch.tensor(ranks).double() / (n + 1)).to(dtype)
        assert discoveries(p, float(q)).tolist() == [k <= max(passed, default=0) for k in ranks]


def test_a_p_value_above_q_by_more_than_rounding_is_no_discovery():
    assert not bool(discoveries(torch.tensor([0.05 + 1e-9], dtype=torch.float64), 0.05))
    assert bool(discoveries(torch.tensor([0.05], dtype=torch.float64), 0.05))
