import pytest
import torch

from gmm_torch.evaluation.rates import interval
from trainers.attacks.adaptive import AdaptiveAttack, Imitation, Joint
from trainers.attacks.adaptive.curve import Curve, trace, union
from trainers.attacks.adaptive.diagnostics import curve_diagnostics, detector_diagnostics

FOUND = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 0]]).bool()


def curve(found=FOUND, unrestricted=1.0):
    return Curve("combined", "joint", (0.1, 0.2, 0.3), found, unrestricted)


def test_an_image_that_passed_within_a_budget_counts_within_larger_ones():
    points = curve().points()
    assert [point.n_evaded for point in points] == [1, 2, 3]
    assert [point.n_lost for point in points] == [0, 1, 0]
    assert [point.rate for point in points] == [0.25, 0.5, 0.75]
    assert points[1].interval == interval(2, 4)


def test_of_several_attacks_the_best_counts_image_by_image():
    other = curve(torch.tensor([[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]).bool(), None)
    joined = union([curve(), other])
    assert joined.attack == "any"
    assert [point.n_evaded for point in joined.points()] == [2, 3, 4]
    assert joined.unrestricted == 1.0


def test_a_search_that_loses_images_or_fails_without_a_budget_is_called_weak():
    assert curve_diagnostics(curve(torch.ones(3, 4).bool())) == []
    (lost,) = curve_diagnostics(curve())
    assert "misses 1 of 4" in lost
    (short,) = curve_diagnostics(curve(torch.ones(3, 4).bool(), 0.5))
    assert "only 50% of the images evade" in short


def test_a_traced_curve_counts_what_its_images_do(threat):
    attack = AdaptiveAttack("joint", Joint("selective"), steps=15, restarts=1)
    found, images = trace("combined", attack, threat, (0.05, 0.2), n_unrestricted=0, seed=0)
    assert images.shape == (2, *threat.images.shape)
    for epsilon, row, changed in zip((0.05, 0.2), found.found, images, strict=True):
        with torch.no_grad():
            verdict = threat.detector(changed)
        assert torch.equal(row, verdict.accept & (verdict.prediction != threat.labels))
        assert float((changed - threat.images).abs().max()) <= epsilon * (1 + 1e-5)
    small, large = found.points()
    assert large.n_evaded > small.n_evaded
    assert found.unrestricted is None
    assert found.summary()["points"][1]["n_evaded"] == large.n_evaded


def test_a_weak_attack_shows_in_the_check_without_a_budget(threat):
    attack = AdaptiveAttack("joint", Joint(), steps=1, restarts=1, step_sizes=[1e-3])
    found, _ = trace("combined", attack, threat, (0.1,), n_unrestricted=10, seed=0)
    assert found.unrestricted < 0.5
    assert any("no sign of security" in text for text in curve_diagnostics(found))


def test_nineteen_of_twenty_images_are_95_per_cent(threat, monkeypatch):
    monkeypatch.setattr("trainers.attacks.adaptive.curve._evaded", lambda *_: torch.arange(20) > 0)
    attack = AdaptiveAttack("joint", Joint(), steps=1, restarts=1)
    found, _ = trace("combined", attack, threat, (0.1,), n_unrestricted=20, seed=0)
    assert found.unrestricted == 0.95
    assert curve_diagnostics(found) == []


def test_a_detector_that_can_be_attacked_has_no_diagnostics(threat):
    assert detector_diagnostics(threat, AdaptiveAttack("joint", Joint())) == []


def test_zero_gradients_are_told(threat, monkeypatch):
    score = threat.detector.score
    monkeypatch.setattr(type(score), "differentiable", False)
    (told,) = detector_diagnostics(threat, AdaptiveAttack("joint", Joint()))
    assert "only imitation" in told
    assert detector_diagnostics(threat, AdaptiveAttack("imitation", Imitation())) == []


@pytest.mark.parametrize(("draws", "told"), [(1, True), (4, False)])
def test_random_scores_are_told_unless_gradients_are_averaged(draws, told, threat, monkeypatch):
    extractor = type(threat.detector.extractor)
    forward = extractor.forward
    generator = torch.Generator().manual_seed(0)

    def noisy(self, x):
        return forward(self, (x + 0.05 * torch.rand(x.shape, generator=generator)).clamp(0, 1))

    monkeypatch.setattr(extractor, "forward", noisy)
    found = detector_diagnostics(threat, AdaptiveAttack("joint", Joint(), draws=draws))
    assert any("random" in text for text in found) == told
