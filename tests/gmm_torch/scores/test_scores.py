"""What each score is, against its definition; what all keep is in `test_detector.py`."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from gmm_torch import FailureDetector, GaussianMixture
from gmm_torch.features.features import Features
from gmm_torch.features.transforms import TRANSFORMS
from gmm_torch.scores import SCORES, make_score
from gmm_torch.scores.feature_mixture import REG_COVAR
from tests.gmm_torch.conftest import batches, images

D, C = 5, 3
ONE_VIEW = [name for name in SCORES if name != "augmentation_consistency"]  # that needs another view to agree with
CENTRES = 6 * torch.eye(D)[:C]


def fitter(mixture, points):
    return mixture.fit(points, reg_covar=REG_COVAR, seed=0)


def blobs(n, seed):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, C, (n,), generator=generator)
    return CENTRES[label] + torch.randn(n, D, generator=generator), label


def outputs_of(z, labels=None):
    """Of a classifier that knows the centres: minus half the squared distance is the logit."""
    return Features(-0.5 * torch.cdist(z, CENTRES).square()[:, None], {"z": z[:, None]}, labels)


def fitted(name, n=600, **options):
    score = make_score(name, **options)
    score.build({"z": D}, 1, C)
    return score.fit(outputs_of(*blobs(n, 5)), fitter)


def between(n, seed):
    """Halfway between two centres, where all a classifier knows is against a prediction."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(0, C, (n,), generator=generator)
    middle = (CENTRES[first] + CENTRES[(first + 1) % C]) / 2
    return middle + 0.1 * torch.randn(n, D, generator=generator)


# depth_consistency asks whether earlier layers agree with the last; here is but one
@pytest.mark.parametrize("name", [name for name in ONE_VIEW if name != "depth_consistency"])
def test_inputs_between_the_classes_score_lower_than_those_within(name):
    options = (
        {"n_components": C} if "n_components" in make_score(name).options() and name != "class_conditional" else {}
    )
    score = make_score(name, **options)
    layers = {"z": D}
    good, bad = outputs_of(blobs(300, 1)[0]), outputs_of(between(300, 2))
    score.build(layers, 1, C)
    score.fit(outputs_of(*blobs(600, 5)), fitter)
    reference = outputs_of(*blobs(600, 3))
    score.set_reference(score.statistics(reference), reference.labels != reference.own_logits.argmax(1))
    auroc = stats.mannwhitneyu(score(good).numpy(), score(bad).numpy()).statistic / 300**2
    assert auroc > 0.9


def test_log_likelihoods_of_layers_add_up_and_unit_norm_is_a_transform():
    z, _ = blobs(400, 0)
    outputs = Features(torch.zeros(400, 1, C), {"a": z[:, None], "b": z[:, None, :2] ** 2})
    score = make_score("log_likelihood", n_components=2).build({"a": D, "b": 2}, 1, C).fit(outputs, fitter)
    expected = GaussianMixture(2, D).fit(z, reg_covar=REG_COVAR, seed=0).log_prob(z)
    expected += GaussianMixture(2, 2).fit(z[:, :2] ** 2, reg_covar=REG_COVAR, seed=0).log_prob(z[:, :2] ** 2)
    torch.testing.assert_close(score(outputs), expected, rtol=1e-4, atol=1e-4)
    unit = fitted("log_likelihood", n_components=2, transform="unit")
    far = outputs_of(blobs(50, 1)[0] * 1000)
    torch.testing.assert_close(unit(far), unit(outputs_of(blobs(50, 1)[0])), rtol=1e-3, atol=1e-3)


def test_moments_are_averaged_over_image_and_mirror_alone(net):
    detector = FailureDetector(net, score=make_score("moment_likelihood"), views=("identity", "mirror", "blur"))
    detector.fit(batches(200, 1))
    x = images(9, 2)
    outputs = detector.extractor(x)
    maps = outputs.layers[detector.score.blocks[0].layer]
    unit = maps / maps.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(detector.score.points(outputs), (unit[:, 0] + unit[:, 1]) / 2)
    mirrored = detector.extractor(x.flip(-1))
    torch.testing.assert_close(detector.score(mirrored), detector.score(outputs), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("by_labels", [False, True])
def test_mahalanobis_distances_are_those_of_numpy(by_labels):
    z, label = blobs(600, 5)
    noisy = torch.where(torch.arange(600) % 5 == 0, (label + 1) % C, label)
    options = {"labels": by_labels, "reg_covar": 1e-6}
    outputs = outputs_of(z, noisy)
    classes = (noisy if by_labels else outputs.own_logits.argmax(1)).numpy()
    data, probe = z.double().numpy(), blobs(40, 1)[0].double().numpy()
    means = np.stack([data[classes == c].mean(0) for c in range(C)])
    within = (data - means[classes]).T @ (data - means[classes]) / len(data)

    def squared(mean, covariance):
        deviation = probe - mean
        return np.einsum("ni,ij,nj->n", deviation, np.linalg.inv(covariance), deviation)

    nearest = np.stack([squared(mean, within) for mean in means], 1).min(1)
    score = make_score("mahalanobis", **options).build({"z": D}, 1, C).fit(outputs, fitter)
    np.testing.assert_allclose(score(outputs_of(blobs(40, 1)[0])).double().numpy(), -nearest, rtol=1e-3, atol=1e-3)


def test_a_class_that_is_never_predicted_is_no_nearest_class():
    z, _ = blobs(600, 5)
    kept = outputs_of(z[outputs_of(z).own_logits.argmax(1) != 1])
    score = make_score("mahalanobis").build({"z": D}, 1, C).fit(kept, fitter)
    assert score.present.tolist() == [True, False, True]
    assert torch.isinf(score.squared_distances(outputs_of(z))[0][:, 1]).all()
    assert (score.components(outputs_of(z)) != 1).all()
    middle = outputs_of(kept.layers["z"].mean(0))  # where an absent class would be put
    assert score(middle) < score(kept).median()


@pytest.mark.parametrize("by_labels", [False, True])
@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical", {"name": "low_rank", "rank": 2}])
def test_a_class_conditional_density_is_that_of_the_mixture_of_the_class(covariance_type, by_labels):
    z, label = blobs(600, 5)
    outputs = outputs_of(z, (label + 1) % C)
    options = {"n_components": 2, "covariance_type": covariance_type, "labels": by_labels}
    score = make_score("class_conditional", **options).build({"z": D}, 1, C).fit(outputs, fitter)
    classes = (label + 1) % C if by_labels else outputs.own_logits.argmax(1)
    x = blobs(40, 1)[0]
    found, predicted = score(outputs_of(x)), outputs_of(x).own_logits.argmax(1)
    difference = []
    for c in range(C):
        mixture = GaussianMixture(2, D, covariance_type).fit(z[classes == c], reg_covar=REG_COVAR, seed=0)
        rows = predicted == c
        difference.append(found[rows] - mixture.log_prob(x[rows]))
    difference = torch.cat(difference)
    assert (difference - difference.mean()).abs().max() < 0.05  # one constant for all


def test_a_class_with_too_few_inputs_gets_the_mixture_of_all():
    z, _ = blobs(600, 5)
    predicted = outputs_of(z).own_logits.argmax(1)
    keep = (predicted != 2) | (torch.arange(600) < 9)
    outputs = outputs_of(z[keep])
    score = make_score("class_conditional").build({"z": D}, 1, C).fit(outputs, fitter)
    pooled = GaussianMixture(1, D).fit(z[keep], reg_covar=REG_COVAR, seed=0)
    torch.testing.assert_close(score.mixtures[0].means[2], pooled.means[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("covariance_type", ["tied", {"name": "tied"}])
def test_classes_that_are_fitted_one_by_one_share_no_covariance(covariance_type):
    with pytest.raises(ValueError, match=r"expected any but 'tied'.*; got .*tied.*: take 'full'"):
        make_score("class_conditional", covariance_type=covariance_type)


@pytest.mark.parametrize("name", ["mahalanobis", "class_conditional"])
def test_labels_come_from_the_loader_where_they_are_asked_for_and_change_nothing_elsewhere(name, net):
    loader = [(x, (x.flatten(1).sum(1) * 100).long() % 3) for x, _ in batches(300, 1)]
    by_label = FailureDetector(net, score=make_score(name, labels=True)).fit(loader)
    by_prediction = FailureDetector(net, score=make_score(name)).fit(loader)
    unlabelled = FailureDetector(net, score=make_score(name)).fit([x for x, _ in loader])
    x = images(20, 3)
    a, b, c = (each.score(each.extractor(x)) for each in (by_label, by_prediction, unlabelled))
    assert torch.equal(b, c)
    assert not torch.allclose(a, b)
    with pytest.raises(ValueError, match="got inputs without"):
        FailureDetector(net, score=make_score(name, labels=True)).fit([x for x, _ in loader])


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_score_with_a_transform_is_stored_with_it(transform, net, tmp_path):
    score = make_score("log_likelihood", n_components=2, transform=transform)
    detector = FailureDetector(net, score=score).fit(batches(300, 1)).calibrate(batches(99, 2))
    detector.save(tmp_path / "d.safetensors")
    x = images(20, 3).requires_grad_()
    verdict = detector(x)
    assert torch.equal(FailureDetector.load(tmp_path / "d.safetensors", net)(x).score, verdict.score)
    verdict.score.sum().backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad != 0).any()
    numbers = detector.explain(images(1, 3))[0].numbers()
    assert ("head:input whiten[" in numbers) == (transform == "whiten")


def test_any_score_sums_over_layers():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    x, other = torch.randn(300, 4), torch.randn(300, 4)
    labelled = list(zip(other.split(100), torch.arange(300).remainder(3).split(100), strict=True))
    for name in ONE_VIEW:
        score = make_score(name)
        detector = FailureDetector(net, score=score, layers=["0", "2"], views=1).fit(x.split(100))
        assert detector.calibrate(labelled)(x[:9]).score.shape == (9,)


@pytest.mark.parametrize(
    ("name", "n_views", "n_classes"),
    [("augmentation_consistency", 1, 3), ("augmentation_consistency", 2, 1), ("depth_consistency", 1, 1)],
)
def test_too_few_views_or_classes_to_compare_are_refused(name, n_views, n_classes):
    with pytest.raises(ValueError, match=f"{name}: expected views >= . and classes >= 2"):
        make_score(name).build({"z": D}, n_views, n_classes)
