"""The expected area under the ROC curve, against its definition and scikit-learn."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from gmm_torch.scores.expected_auroc import expected_auroc


def brute_force(score: list[float], probability: list[float]) -> float:
    """Over all ordered pairs of two inputs."""
    right = weight = 0.0
    for i, (s, p) in enumerate(zip(score, probability, strict=True)):
        for j, (t, q) in enumerate(zip(score, probability, strict=True)):
            if i != j:
                weight += p * (1 - q)
                right += p * (1 - q) * (1.0 if s > t else 0.5 if s == t else 0.0)
    return right / weight


def test_it_is_the_sum_over_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    score = torch.randint(8, (40,), generator=generator).double()  # with ties
    probability = torch.rand(40, generator=generator)
    expected = brute_force(score.tolist(), probability.double().tolist())
    assert abs(float(expected_auroc(score, probability)) - expected) < 1e-12


def test_with_certain_classes_it_is_the_area_itself() -> None:
    generator = torch.Generator().manual_seed(1)
    score = torch.randn(200, generator=generator).round(decimals=1)
    positive = torch.rand(200, generator=generator) < 0.7
    found = expected_auroc(score, positive.float())
    torch.testing.assert_close(float(found), float(roc_auc_score(positive.numpy(), score.numpy())), rtol=1e-12, atol=0)


def test_it_is_the_mean_of_the_area_over_draws_of_the_classes() -> None:
    """A check of what it means: 4,000 draws, four standard errors (a false alarm in about 16,000)."""
    generator = torch.Generator().manual_seed(2)
    score = torch.randn(60, generator=generator)
    probability = torch.sigmoid(score + torch.randn(60, generator=generator))
    positive = (torch.rand(4000, 60, generator=generator) < probability).double()
    negative = 1 - positive
    above = (score[:, None] > score).double()  # no ties
    areas = (positive @ above * negative).sum(1) / (positive.sum(1) * negative.sum(1))
    assert areas[0] == pytest.approx(roc_auc_score(positive[0].numpy(), score.numpy()))
    # The ratio of expectations differs from the expected ratio by a term of the order of 1 / N.
    error = 4 * areas.std() / len(areas) ** 0.5 + 0.005
    assert abs(float(expected_auroc(score, probability)) - float(areas.mean())) < error
