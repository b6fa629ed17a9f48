"""One decision: by rank, by score, by p-value and as a number of Python, in every precision, it is the same."""

from fractions import Fraction

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from gmm_torch import FailureDetector
from gmm_torch.conformal.conditional import ConditionalCalibration
from gmm_torch.conformal.mondrian import MondrianCalibration
from gmm_torch.conformal.p_values import calibration_size, exceeds, refused, threshold_index
from gmm_torch.detector import Calibration
from gmm_torch.scores import make_score


def levels_from(smallest):
    return st.one_of(
        st.floats(smallest, 1, exclude_max=True),
        st.builds(lambda part, whole: part / (part + whole), st.integers(1, 300), st.integers(1, 300)),
        st.sampled_from([0.01, 0.05, 0.07, 0.29, 0.57, 0.1 + 0.2, 1 / 3, 1 - 2**-53]),
    )


levels = levels_from(2.0**-20)
CALIBRATIONS = {
    "marginal": lambda: Calibration(),
    "mondrian": lambda: MondrianCalibration(4),
    "conditional": lambda: ConditionalCalibration(0.3, "simes"),
}


@given(st.integers(1, 2000), levels)
@example(19, 0.05)
@example(99, 0.29)
@example(2**27, 1 / 3)
def test_the_rule_is_that_of_the_quotient_rounded_once(n, alpha):
    k = threshold_index(alpha, n)
    assert k == 0 or float(Fraction(k, n + 1)) <= alpha
    assert float(Fraction(k + 1, n + 1)) > alpha
    for count in {max(1, k), k + 1}:
        count_and_size = torch.tensor([count]), torch.tensor([n + 1])
        assert exceeds(count, n + 1, alpha) == (count / (n + 1) > alpha)
        assert exceeds(*count_and_size, alpha).tolist() == [count > k]


@given(levels)
def test_the_smallest_set_is_the_first_whose_smallest_p_value_is_at_most_alpha(alpha):
    n = calibration_size(alpha)
    assert 1 / (n + 1) <= alpha
    assert n == 0 or 1 / n > alpha


@pytest.mark.parametrize("name", CALIBRATIONS)
@given(
    n=st.integers(1, 250),
    alpha=levels_from(2.0**-10),  # a smaller one takes more inputs than there are, and long to say how many
    grain=st.sampled_from([2.0, 1e-3, 1e-9]),
    types=st.sampled_from([(a, b) for a in (torch.float32, torch.float64) for b in (torch.float32, torch.float64)]),
    seed=st.integers(0, 2**20),
)
@example(n=19, alpha=0.05, grain=1e-3, types=(torch.float32, torch.float32), seed=0)
@example(n=199, alpha=0.05, grain=1e-3, types=(torch.float32, torch.float32), seed=0)
def test_all_ways_to_decide_agree(name, n, alpha, grain, types, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = ((torch.randn(n, generator=generator).double() / grain).round() * grain).to(types[0])
    classes = torch.randint(3, (n,), generator=generator)  # the fourth never occurs
    try:
        calibration = CALIBRATIONS[name]().fit(scores, alpha, predictions=classes)
    except ValueError as error:
        assert "needs at least" in str(error) or "need at least" in str(error)  # noqa: PT017
        return
    near = scores.to(types[1])
    step = torch.full_like(near, torch.inf)
    x = torch.cat([near, near.nextafter(step), near.nextafter(-step), near.new_tensor([-torch.inf, torch.inf])])
    y = torch.randint(4, (len(x),), generator=generator)
    accept, p = calibration.accepts(x, y, alpha=alpha), calibration.p_value(x, y)
    threshold = calibration.threshold(alpha)
    # a number without dimension would be rounded to the type of x
    assert torch.equal(accept, x >= (threshold[y] if threshold.dim() else threshold.expand(y.shape)))
    assert torch.equal(accept, ~refused(p, alpha))
    assert accept.tolist() == [value > alpha for value in p.tolist()]
    alone = [calibration.accepts(x[i : i + 1], y[i : i + 1], alpha=alpha) for i in range(0, len(x), 149)]
    assert torch.equal(torch.cat(alone), accept[::149])


@pytest.mark.parametrize("n", [19, 199])
def test_the_verdict_is_that_of_its_own_p_values_as_numbers(n):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Identity())
    generator = torch.Generator().manual_seed(0)
    detector = FailureDetector(net, score=make_score("max_softmax")).fit([torch.randn(50, 3, generator=generator)])
    detector.calibrate([3 * torch.randn(n, 3, generator=generator)])
    verdict = detector(torch.randn(2000, 3, generator=generator))
    assert verdict.accept.tolist() == [p > detector.alpha for p in verdict.p_value.tolist()]
    assert bool((verdict.p_value == detector.alpha).any())  # where rounding would decide
