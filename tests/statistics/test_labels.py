"""Does any promise depend on who has labels? False-alarm rate of all these tests together, stated: 1e-3.

Every score meets every calibration, without shift. Labels come with one loader and not with the other.
"""

from itertools import product
from statistics import mean

import pytest
import torch
from scipy import stats
from torch import nn

from gmm_torch import FailureDetector
from gmm_torch.conformal import CALIBRATIONS, Unlabelled, make_calibration
from gmm_torch.errors import WeightsError
from gmm_torch.scores import SCORES, make_score

C, D = 4, 8
N_CALIBRATION, N_NEW, DRAWS = 2000, 1000, 4
ALPHAS = (0.05, 0.1)
CASES = list(product(SCORES, CALIBRATIONS))
Z = stats.norm.isf(1e-3 / 2 / (len(CASES) * len(ALPHAS) + 2))
# Weights learned from 1,000 inputs a side vary: over draws, they spread up to three times as far as ranks alone.
LEARNED = 3.0


def inputs(n, seed):
    """Four normal classes that overlap, as images (n, 1, 5, 8) of five equal rows, and labels (n,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(C, (n,), generator=generator)
    row = 2 * torch.eye(C, D)[labels] + torch.randn(n, D, generator=generator)
    return row[:, None, None].repeat(1, 1, 5, 1), labels


def batches(n, seed, *, labels=True):
    x, y = inputs(n, seed)
    return [(x, y)] if labels else [x]


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    row = nn.Sequential(nn.AdaptiveAvgPool2d((1, D)), nn.Flatten())
    net = nn.Sequential(row, nn.Linear(D, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, C))
    optimizer, (x, y) = torch.optim.Adam(net.parameters(), 1e-2), inputs(1000, 1)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


def fitted(classifier, name, kind, draw):
    options = {"n_classes": C} if kind in ("mondrian", "label_shift") else {}
    score, calibration = make_score(name), make_calibration(kind, **options)
    detector = FailureDetector(
        classifier, score=score, calibration=calibration, alpha=0.1, layers=["1", "3"], views=score.min_views
    )
    return detector.fit(batches(600, 100 * draw + 2, labels=False))


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.filterwarnings("ignore")
def test_a_share_alpha_of_good_inputs_is_refused_whoever_has_labels(name, kind, classifier):
    refused = {alpha: [] for alpha in ALPHAS}
    sizes = []
    for draw in range(DRAWS):
        detector = fitted(classifier, name, kind, draw)
        if detector.calibration.needs_adapt:
            detector.adapt(batches(1000, 100 * draw + 3, labels=False), batches(1000, 100 * draw + 4))
        detector.calibrate(batches(N_CALIBRATION, 100 * draw + 5))
        sizes.append(getattr(detector.calibration, "effective_size", len(detector.calibration)))
        for alpha in ALPHAS:
            detector.alpha = alpha
            refused[alpha].append(float((~detector(inputs(N_NEW, 100 * draw + 6)[0]).accept).double().mean()))
    for alpha, found in refused.items():
        spread = (alpha * (1 - alpha) * (1 / N_NEW + 1 / mean(sizes)) / DRAWS) ** 0.5
        band = Z * spread * (LEARNED if detector.calibration.needs_adapt else 1)
        assert mean(found) <= alpha + band
        if kind != "conditional":  # that one promises its rate for this very calibration set, so refuses fewer
            assert mean(found) >= alpha - band - C / mean(sizes)


@pytest.mark.parametrize("name", ["max_softmax", "right_wrong_ratio", "labelled_combined"])
@pytest.mark.parametrize("kind", [kind for kind, each in CALIBRATIONS.items() if each.needs_adapt])
@pytest.mark.filterwarnings("ignore")
def test_every_weight_and_p_value_is_the_same_to_the_last_bit_whoever_has_labels(name, kind, classifier):
    needed = CALIBRATIONS[kind].needs_labels
    found = []
    for of_deployment, of_reference in product((False, True), (False, True) if not needed else (True,)):
        detector = fitted(classifier, name, kind, 0)
        detector.adapt(batches(1000, 3, labels=of_deployment), batches(1000, 4, labels=of_reference))
        detector.calibrate(batches(N_CALIBRATION, 5))
        found.append((detector(inputs(200, 6)[0]).p_value, detector.calibration.log_weights_of_scores))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def p_values(classifier, draw, *, with_labels):
    """P-values of new inputs, the statistics that weights see with a column of labels put back or not."""
    detector = fitted(classifier, "right_wrong_ratio", "weighted", draw)
    deployment, reference, calibration, new = (
        detector.statistics(batches(n, 100 * draw + seed), labels=seed in (4, 5))
        for n, seed in ((1000, 3), (1000, 4), (N_CALIBRATION, 5), (N_NEW, 6))
    )

    def seen(found):
        column = torch.full((len(found.prediction), 1), -1.0) if found.wrong is None else found.wrong.float()[:, None]
        values = torch.cat([found.values, column], dim=1) if with_labels else found.values
        return Unlabelled(values, found.prediction)

    weights = make_calibration("weighted").adapt(seen(reference), seen(deployment))
    detector.score.set_reference(reference.values, inputs(1000, 100 * draw + 4)[1] != reference.prediction)
    scores = detector.score.combine(calibration.values)
    weights.fit(scores, 0.05, log_weight=weights.log_weights(seen(calibration)))
    return weights.p_value(detector.score.combine(new.values), log_weight=weights.log_weights(seen(new)))


@pytest.mark.filterwarnings("ignore")
def test_weights_that_see_labels_break_the_promise(classifier):
    """The control: what the tests above must be able to see."""

    def deviation(*, with_labels):
        """Root mean square of refused rate less alpha; a calibration that raises has promised nothing and counts 1."""
        found = []
        for draw in range(16):
            try:
                rate = float((p_values(classifier, draw, with_labels=with_labels) <= 0.05).double().mean())
            except WeightsError:
                rate = 1.05
            found.append((rate - 0.05) ** 2)
        return mean(found) ** 0.5

    expected = (0.05 * 0.95 * (1 / N_NEW + 1 / N_CALIBRATION)) ** 0.5
    assert deviation(with_labels=False) <= LEARNED * expected
    assert deviation(with_labels=True) > LEARNED * expected
