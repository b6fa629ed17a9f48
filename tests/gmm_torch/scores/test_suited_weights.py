"""The default's weights: scaled to the network until the other parts cost wrong predictions little, without labels."""

import pytest
import torch

from gmm_torch.features.features import Features
from gmm_torch.scores.combination import expected_auroc
from gmm_torch.scores.combined import MAX_COST, SCALES, Combined, default_weights

N, C, D = 1500, 5, 6


def fitter(mixture, points):
    return mixture.fit(points, reg_covar=1e-2, seed=0)


def outputs_of(seed, *, spread, n=N):
    """Three views of logits of some spread, and features that know nothing of how sure they are."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(n, 1, C, generator=generator) + 0.3 * torch.randn(n, 3, C, generator=generator)
    return Features(logits, {"z": torch.randn(n, 1, D, generator=generator)})


def fitted(spread, **options):
    score = Combined(n_components=2, **options).build({"z": D}, 3, C)
    score.fit(outputs_of(0, spread=spread), fitter)
    return score.set_reference(score.statistics(outputs_of(1, spread=spread)))


def cost(score, outputs):
    statistics = score.statistics(outputs)
    alone = statistics[:, list(score.weights).index("mean_log_probability")]
    p = alone.double().exp()
    return float(expected_auroc(alone, p) - expected_auroc(score.combine(statistics), p))


def test_the_parts_cost_new_inputs_no_more_than_they_may():
    """New inputs, so that the cost is not what it was set to: within two tenths of a point, seeds fixed."""
    score = fitted(spread=2.0)
    assert SCALES[-1] < float(score.log_scale.exp()) < 1
    assert cost(score, outputs_of(1, spread=2.0)) == pytest.approx(MAX_COST, abs=5e-4)  # the reference
    assert float(fitted(spread=60.0).log_scale) == 0  # every prediction is certain, so no part costs anything
    assert cost(score, outputs_of(2, spread=2.0)) == pytest.approx(MAX_COST, abs=0.002)


def test_only_the_other_parts_are_scaled():
    score = fitted(spread=2.0)
    log_p = torch.randn(9, len(default_weights(3, 5))).abs().neg()
    weights = score.log_weights.clone()
    weights[1:] += score.log_scale
    assert next(iter(score.weights)) == "mean_log_probability"
    torch.testing.assert_close(score.join(log_p), -torch.logsumexp(weights - 0.5 * log_p, dim=-1))


def test_the_scale_is_found_again_with_each_reference_and_is_part_of_the_state():
    score = fitted(spread=2.0)
    first = float(score.log_scale)
    score.set_reference(score.statistics(outputs_of(3, spread=2.0, n=400)))
    assert float(score.log_scale) != first
    score.set_reference(score.statistics(outputs_of(1, spread=2.0)))
    assert float(score.log_scale) == first
    assert "log_scale" in score.state_dict()


def test_nearly_certain_predictions_leave_the_weights_whatever_the_type():
    """1 - p of 1e-7 is one step of float32: an area over it would be made of rounding."""
    for spread in (12.0, 14.0, 15.0, 16.0, 17.0):
        scales = []
        for dtype in (torch.float32, torch.float64):
            score = Combined(n_components=2).build({"z": D}, 3, C).to(dtype)
            fitting, reference = (certain(seed, spread, dtype) for seed in (0, 1))
            score.fit(fitting, fitter).set_reference(score.statistics(reference))
            scales.append(float(score.log_scale.exp()))
        assert scales[0] == pytest.approx(scales[1], abs=0.02)


def certain(seed, margin, dtype):
    outputs = outputs_of(seed, spread=0.3, n=600)
    logits = outputs.logits.tanh()
    top = torch.nn.functional.one_hot(logits[:, :1].argmax(-1), C)
    return Features((logits + margin * top).to(dtype), {"z": outputs.layers["z"].to(dtype)})


def test_weights_by_hand_are_the_same_however_few_inputs_there_were_to_learn_from():
    weights = {"mean_log_probability": 1.0, "moment_likelihood": 0.25}
    score = Combined(n_components=2, weights=weights).build({"z": D}, 3, C)
    score.fit(outputs_of(0, spread=2.0, n=100), fitter)
    score.set_reference(score.statistics(outputs_of(1, spread=2.0, n=100)))
    assert score.shares() == weights
