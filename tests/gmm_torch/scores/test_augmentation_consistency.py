"""Augmentation consistency: what other views say of a prediction, given how sure the classifier is of it."""

import torch
from scipy import stats

from gmm_torch.features.features import Features, log_odds
from gmm_torch.scores import make_score

C = 4


def fitter(mixture, points):
    return mixture.fit(points, reg_covar=1e-2, seed=0)


def clean(n, seed):
    """Three views whose logits differ by little."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(n, 1, C, generator=generator)
    return Features(logits + 0.5 * torch.randn(n, 3, C, generator=generator), {})


def fitted():
    return make_score("augmentation_consistency", n_components=3).build({}, 3, C).fit(clean(2000, 0), fitter)


def test_a_prediction_that_other_views_do_not_share_scores_low_however_sure_it_is():
    score, good = fitted(), clean(500, 1)
    turned = torch.cat([good.logits[:, :1], good.logits[:, 1:].roll(1, dims=-1)], dim=1)
    auroc = stats.mannwhitneyu(score(good).numpy(), score(Features(turned, {})).numpy()).statistic / 500**2
    assert auroc > 0.95
    assert (score(good) <= 0).all()


def test_of_clean_inputs_it_is_uniform_and_knows_nothing_of_certainty():
    score, outputs = fitted(), clean(2000, 2)
    assert stats.kstest(score(outputs).exp().numpy(), "uniform").statistic < 0.1
    sure = log_odds(outputs.own_logits, outputs.own_logits.argmax(1))
    assert abs(stats.spearmanr(sure.numpy(), score(outputs).numpy()).statistic) < 0.15


def test_it_asks_the_mean_log_odds_of_all_other_views():
    outputs = clean(7, 3)
    predicted = outputs.own_logits.argmax(1)
    p = outputs.logits.double().softmax(-1).gather(2, predicted[:, None, None].expand(-1, 3, 1))[..., 0]
    odds = (p / (1 - p)).log()
    expected = torch.stack([odds[:, 0], odds[:, 1:].mean(1)], dim=1)
    torch.testing.assert_close(fitted().odds(outputs).double(), expected, rtol=1e-4, atol=1e-4)
