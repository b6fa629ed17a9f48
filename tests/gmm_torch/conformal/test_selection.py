from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gmm_torch.conformal.selection import adjusted_p_values, discoveries, null_proportion


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40))
def test_adjusted_p_values_are_scipys(p):
    expected = torch.from_numpy(stats.false_discovery_control(torch.tensor(p).double().numpy()))
    torch.testing.assert_close(adjusted_p_values(torch.tensor(p)), expected)


def test_the_step_up_procedure_by_hand():
    # m = 4, q = 0.1: thresholds 0.025, 0.05, 0.075, 0.1; the third p-value passes and takes the second along
    p = torch.tensor([0.9, 0.06, 0.02, 0.055])
    assert discoveries(p, 0.1).tolist() == [False, True, True, True]
    assert discoveries(p, 0.05).tolist() == [False, False, False, False]


def test_storeys_estimate_by_hand_is_not_cut_at_one_and_finds_more():
    assert null_proportion(torch.tensor([0.01, 0.02, 0.6]).repeat(2)) == pytest.approx((1 + 2) / (6 * 0.5))
    p = torch.tensor([0.02, 0.6, 0.7, 0.8])
    assert null_proportion(p) == pytest.approx(2)
    # 2 * 4 * 0.02 / 1 <= 0.2, but not <= 0.1; Benjamini and Hochberg's 4 * 0.02 / 1 is
    assert [int(discoveries(p, q, storey=True).sum()) for q in (0.2, 0.1)] == [1, 0]
    assert discoveries(p, 0.1).sum() == 1
    p = torch.cat([torch.full((15,), 0.06), torch.linspace(0.3, 1, 5)])
    assert [int(discoveries(p, 0.05, storey=storey).sum()) for storey in (False, True)] == [0, 15]


@given(st.integers(1, 60), st.lists(st.integers(1, 61), min_size=1, max_size=40), st.fractions("1/100", "1/2"))
def test_discoveries_are_those_of_rational_arithmetic(n, ranks, q):
    q = q.limit_denominator(100)
    ranks = [min(k, n + 1) for k in ranks]
    m, ordered = len(ranks), sorted(ranks)
    passed = [k for j, k in enumerate(ordered, 1) if Fraction(k, n + 1) * m <= q * j]
    for dtype in (torch.float32, torch.float64):
        p = (torch.tensor(ranks).double() / (n + 1)).to(dtype)
        assert discoveries(p, float(q)).tolist() == [k <= max(passed, default=0) for k in ranks]


def test_bad_arguments_are_refused():
    p = torch.ones(3)
    for call, name in (
        (lambda: discoveries(torch.tensor([0.1, torch.nan]), 0.1), "p-values"),
        (lambda: discoveries(p, 1), "q"),
        (lambda: null_proportion(p, 0), "split"),
        (lambda: adjusted_p_values(p, 0), "null_proportion"),
    ):
        with pytest.raises(ValueError, match=f"{name}: expected"):
            call()
