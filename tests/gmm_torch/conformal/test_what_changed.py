import pytest
import torch

from gmm_torch.conformal.calibrations import make_calibration
from gmm_torch.conformal.what_changed import onset, stretches, what_changed

BEFORE = torch.arange(400) % 4
NOW = torch.cat([torch.arange(60) % 4, torch.full((40,), 2)])
P = torch.cat([torch.linspace(0.1, 1, 60), torch.linspace(0.04, 0.001, 40)]).double()


def test_a_component_that_grew_is_named_with_its_least_typical_inputs():
    found = what_changed(BEFORE, NOW, P, start=1000, n_stretches=5)
    first = found.components[0]
    assert first.component == 2
    assert (first.share_before, first.share_now) == (0.25, 0.55)
    assert first.low < 0.55 < first.high
    assert first.p_value < 1e-6
    assert first.examples == (1099, 1098, 1097, 1096, 1095)
    assert len(found.components) == 1  # the others have shrunk
    assert "component 2 from 25.0 to 55.0 % (for example inputs 1099, 1098" in found.in_words
    assert [(each.start, each.n) for each in found.stretches] == [(1000 + 20 * i, 20) for i in range(5)]
    assert [each.refused for each in found.stretches] == [0, 0, 0, 1, 1]
    assert found.stretches[0].low < found.stretches[0].median < found.stretches[0].high
    assert found.stretches[4].median == pytest.approx(float(P[80:].median()), abs=1e-3)


def test_where_nothing_changed_nothing_is_named_and_new_components_are():
    same = what_changed(BEFORE, BEFORE[:80], torch.full((80,), 0.5))
    assert same.components == ()
    assert same.in_words == "no component's share has grown by more than chance explains"
    new = what_changed(BEFORE, torch.full((30,), 7), torch.full((30,), 0.5))
    assert new.components[0].component == 7
    assert new.components[0].share_before == 0


def test_p_values_are_corrected_for_the_number_of_components():
    few = what_changed(torch.tensor([0, 1] * 50), torch.tensor([0, 1] * 10 + [1] * 8), torch.full((28,), 0.5))
    many = what_changed(
        torch.tensor([0, 1] * 50), torch.tensor([0, 1] * 10 + [1] * 8), torch.full((28,), 0.5), n_stretches=100
    )
    assert few.components == many.components
    assert few.components[0].p_value > 0.05
    assert len(many.stretches) == 28


def test_what_is_refused_in_a_stretch_is_what_verdicts_refuse():
    (found,) = stretches(torch.full((4,), 1 / 20), alpha=0.05, n_stretches=1)  # float32, a little above as a float64
    assert found.refused == 1


def test_bad_arguments_are_refused_in_words():
    with pytest.raises(ValueError, match="reference components: expected"):
        what_changed(BEFORE.float(), NOW, P)
    with pytest.raises(ValueError, match="components: expected one per p-value, 100; got 3"):
        what_changed(BEFORE, NOW[:3], P)
    with pytest.raises(ValueError, match="p-values: expected"):
        what_changed(BEFORE, NOW, P + 1)
    with pytest.raises(ValueError, match="n_stretches: expected at least 1"):
        what_changed(BEFORE, NOW, P, n_stretches=0)


@pytest.mark.parametrize("worse", [True, False])
def test_the_beginning_of_a_change_is_found_within_some_inputs(worse):
    generator = torch.Generator().manual_seed(0)
    late = []
    for _ in range(50):
        p = torch.rand(400, generator=generator).double()
        p[300:] = p[300:] ** 4 if worse else 1 - (1 - p[300:]) ** 4
        late.append(onset(p) - 300)
    middle = torch.tensor(late).abs().sort().values
    assert middle[25] <= 15
    assert middle[45] <= 100
    assert onset(torch.tensor([0.5])) == 0
    assert onset(torch.full((12,), 0.01)) == 0
    with pytest.raises(ValueError, match=r"expected shape \(N,\), N >= 1"):
        onset(torch.empty(0).double())


@pytest.mark.parametrize("odd", [0.0, 1e-30, 0.999, 1.0])
@pytest.mark.parametrize("n_odd", [1, 3])
def test_no_single_input_decides_where_a_change_began(odd, n_odd):
    assert onset(torch.tensor([0.5] * (501 - n_odd) + [odd] * n_odd + [0.5] * 200 + [0.01] * 40)) == 701


@pytest.mark.parametrize("calibration", ["marginal", "conditional"])
@pytest.mark.parametrize("digits", [1, 7])
@pytest.mark.parametrize("n", [50, 500])
def test_clean_p_values_of_1_and_their_ties_do_not_move_the_beginning(calibration, digits, n):
    """600 clean inputs, then 8 shifted ones; p-values lie on a grid, and scores of one digit are often equal."""
    early = ones = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        scores = torch.randn(n + 608, generator=generator).mul(10**digits).round() / 10**digits
        scores[-8:] -= 5
        p = make_calibration(calibration).fit(scores[:n], 0.5).p_value(scores[n:])
        ones += int((p == 1).sum())
        early += onset(p) < 500
    assert ones >= 10
    assert early <= 4
