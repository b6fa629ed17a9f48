import pytest
import torch

from gmm_torch.conformal import weighted_selection
from gmm_torch.conformal.conformal_selection import conformal_selection
from gmm_torch.conformal.false_discovery import discoveries
from gmm_torch.conformal.weighted_p_value import weighted_p_value
from gmm_torch.conformal.weighted_selection import weighted_conformal_selection, weighted_discoveries


def world(seed, n=60, m=25, discrete=False):
    """Scores of a batch with failures, their log-weights, and the same of calibration inputs."""
    g = torch.Generator().manual_seed(seed)
    scores, calibration = (
        torch.randn(m, generator=g).double() - 3 * (torch.arange(m) < m // 3),
        torch.randn(n, generator=g).double(),
    )
    if discrete:
        scores, calibration = scores.round(), calibration.round()
    return scores, torch.randn(m, generator=g), calibration, torch.randn(n, generator=g)


def by_definition(scores, log_weight, calibration, log_weights, q):
    """Jin, Candes 2023, algorithm 1, with deterministic pruning, word for word."""
    weights, own = log_weights.double().exp(), log_weight.double().exp()
    m, sizes, first = len(scores), [], []
    for j in range(m):
        total = weights.sum() + own[j]
        auxiliary = torch.stack([weights[calibration <= s].sum() + own[j] * (scores[j] <= s) for s in scores]) / total
        p, auxiliary[j] = float(auxiliary[j]), 0.0
        ordered = auxiliary.sort().values
        sizes.append(max(k for k in range(1, m + 1) if ordered[k - 1] <= q * k / m))
        first.append(p <= q * sizes[-1] / m)
    passes = [r for r in range(1, m + 1) if sum(f and s <= r for f, s in zip(first, sizes, strict=True)) >= r]
    return torch.tensor([f and s <= max(passes, default=0) for f, s in zip(first, sizes, strict=True)])


@pytest.mark.parametrize("discrete", [False, True])
def test_it_is_the_algorithm_of_the_paper_whatever_the_order_and_the_chunks(discrete, monkeypatch):
    n_found = 0
    for seed in range(20):
        scores, own, calibration, log_weights = world(seed, discrete=discrete)
        found = weighted_discoveries(scores, own, calibration, log_weights, 0.3)
        assert torch.equal(found, by_definition(scores, own, calibration, log_weights, 0.3))
        back = weighted_discoveries(scores.flip(0), own.flip(0), calibration.flip(0), log_weights.flip(0), 0.3)
        assert torch.equal(back.flip(0), found)
        with monkeypatch.context() as patch:
            patch.setattr(weighted_selection, "MAX_NUMBERS", 60)
            assert torch.equal(weighted_discoveries(scores, own, calibration, log_weights, 0.3), found)
        drawn = weighted_discoveries(scores, own, calibration, log_weights, 0.3, seed=seed)
        assert bool((drawn >= found).all())
        n_found += int(found.sum())
    assert n_found > 40


@pytest.mark.parametrize("discrete", [False, True])
def test_with_equal_weights_it_is_benjamini_and_hochbergs(discrete):
    for seed in range(30):
        scores, own, calibration, log_weights = world(seed, discrete=discrete)
        own, log_weights = torch.full_like(own, 2.0), torch.full_like(log_weights, 2.0)
        p = weighted_p_value(scores, own, calibration, log_weights)
        found = weighted_discoveries(scores, own, calibration, log_weights, 0.3)
        assert torch.equal(found, discoveries(p, 0.3))
        wrong = torch.arange(len(calibration)) % 4 == 0
        unseen = weighted_conformal_selection(scores, own, calibration, log_weights, wrong, 0.3)
        assert torch.equal(unseen, conformal_selection(scores, calibration, wrong, 0.3))
        assert discrete or unseen.any()


def test_inputs_of_which_nothing_can_be_said_are_not_named():
    scores, own, calibration, log_weights = world(0)
    own, log_weights = torch.zeros_like(own), torch.zeros_like(log_weights)
    own[:3] = torch.tensor([torch.inf, torch.nan, torch.inf])  # all three are failures
    scores[10], scores[11] = torch.nan, torch.inf
    found = weighted_discoveries(scores, own, calibration, log_weights, 0.3)
    assert not found[:3].any()
    assert found[10]
    assert not found[11]
    wrong = torch.arange(len(calibration)) % 9 == 0
    unseen = weighted_conformal_selection(scores, own, calibration, log_weights, wrong, 0.3)
    assert not unseen[10]
    assert unseen[11]
    nothing = torch.full_like(log_weights, -torch.inf)
    assert not weighted_discoveries(scores, own, calibration, nothing, 0.3).any()


@pytest.mark.parametrize(("n", "everything"), [(3, False), (4, True), (60, True)])
def test_where_no_labelled_prediction_is_wrong_the_number_of_them_decides_alone(n, everything):
    """q = 0.2, so that it takes 1 / q - 1 = 4."""
    scores, own, calibration, log_weights = world(0, n)
    none = torch.zeros(n, dtype=torch.bool)
    even = torch.zeros_like(own), torch.zeros_like(log_weights)
    assert torch.equal(conformal_selection(scores, calibration, none, 0.2), torch.full((len(scores),), everything))
    unseen = weighted_conformal_selection(scores, even[0], calibration, even[1], none, 0.2)
    assert torch.equal(unseen, torch.full((len(scores),), everything))
    scores[1] = torch.nan  # never goes out, and counts in m, so that four no longer suffice
    unseen = weighted_conformal_selection(scores, even[0], calibration, even[1], none, 0.2)
    assert unseen.tolist() == [i != 1 and n > 4 for i in range(len(scores))]
    own[0], total = 5.0, log_weights.double().exp().sum()
    heavy = own.double().exp() / (own.double().exp() + total) > 0.2
    assert bool(heavy[0])
    assert not weighted_conformal_selection(scores, own, calibration, log_weights, none, 0.2, seed=1)[heavy].any()


def test_bad_arguments_are_refused_in_words():
    scores, own, calibration, log_weights = world(0)
    wrong = torch.zeros(len(calibration), dtype=torch.bool)
    with pytest.raises(ValueError, match="log-weights: expected one number per score"):
        weighted_discoveries(scores, own[:3], calibration, log_weights, 0.3)
    with pytest.raises(ValueError, match=r"scores: expected shape \(N,\); got \(1, 25\)"):
        weighted_discoveries(scores[None], own[None], calibration, log_weights, 0.3)
    with pytest.raises(ValueError, match="seed: expected at least 0; got -1"):
        weighted_discoveries(scores, own, calibration, log_weights, 0.3, seed=-1)
    with pytest.raises(ValueError, match="expected one of each per input"):
        weighted_discoveries(scores, own, calibration, log_weights[:3], 0.3)
    with pytest.raises(ValueError, match="number of scores: expected at least 1; got 0"):
        weighted_discoveries(scores[:0], own[:0], calibration, log_weights, 0.3)
    with pytest.raises(ValueError, match="q: expected"):
        weighted_discoveries(scores, own, calibration, log_weights, 1.0)
    with pytest.raises(ValueError, match="errors: expected one bool per calibration score"):
        weighted_conformal_selection(scores, own, calibration, log_weights, wrong[:3], 0.3)
    with pytest.raises(ValueError, match="calibration scores: expected numbers"):
        weighted_conformal_selection(scores, own, calibration * torch.nan, log_weights, wrong, 0.3)
