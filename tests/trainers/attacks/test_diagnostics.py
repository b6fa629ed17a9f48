"""Each guard speaks up about a classifier that is wrong in just its way, and none about a sound one."""

import re
import warnings

import pytest
import torch
from foolbox import attacks as foolbox_attacks
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from trainers.attacks import Attack
from trainers.attacks.diagnostics import (
    AttackWarning,
    GradientDiagnostics,
    comparison_diagnostics,
    diagnose_gradients,
    huge_budget,
)
from trainers.attacks.result import AttackResult


class Before(nn.Module):
    """A classifier with something done to its images."""

    def __init__(self, classifier, function):
        super().__init__()
        self.classifier = classifier
        self.function = function

    def forward(self, x):
        return self.classifier(self.function(x))


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return -gradient


WRONGS = {
    "rounded": (lambda x: (x * 16).round() / 16, "exactly zero at 100.0%"),
    "reversed": (_Reversed.apply, r"0.0% of a few images change class at a budget of 0.5.*gradients mislead"),
    "random": (
        lambda x: nn.functional.dropout(x, 0.1, training=True),
        r"different logits at 100.0% .*\(dropout left on\?",
    ),
    "root": (lambda x: x.sqrt().square(), "infinite or NaN at 100.0%"),
}


def _attack(name="attack", method=None, epsilon=0.2, **options):
    return Attack(name, method or foolbox_attacks.LinfPGD(steps=10, rel_stepsize=0.2), epsilon, n_images=40, **options)


def _run(attack, classifier, loader):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = attack.run(classifier, loader)
    return result, [str(each.message) for each in caught if issubclass(each.category, AttackWarning)]


def test_a_sound_classifier_is_not_warned_about(classifier, loader):
    result, found = _run(_attack(), classifier, loader)
    assert found == []
    assert result.huge_epsilon == 0.5
    assert result.huge_success_rate > 0.9


@pytest.mark.parametrize("name", WRONGS)
def test_a_wrong_classifier_is_warned_about(name, classifier, loader):
    function, text = WRONGS[name]
    result, found = _run(_attack(), Before(classifier, function), loader)
    assert result.n_attacked == 40
    assert any(re.search(text, each) for each in found), found


def test_only_the_guard_that_fits_speaks(classifier, loader):
    _, found = _run(_attack(), Before(classifier, WRONGS["random"][0]), loader)
    assert len(found) == 1
    assert "different logits" in found[0]


class _Faint(nn.Module):
    """Dark or bright, by logits whose differences are tiny."""

    def forward(self, x):
        mean = x.flatten(1).mean(dim=1) - 0.5
        return 1e-14 * torch.stack([-mean, mean], dim=1)


def test_vanishing_gradients_are_told_from_zero_ones():
    images = torch.rand(8, 1, 4, 4)
    labels = (images.flatten(1).mean(dim=1) > 0.5).long()
    loader = DataLoader(TensorDataset(images, labels))
    attack = _attack(method=foolbox_attacks.L2PGD(steps=5, random_start=False), epsilon=0.1)
    result, found = _run(attack, _Faint(), loader)
    assert any(re.search("nearly vanishes .* at 100.0%", each) for each in found), found
    assert result.zero_gradient_share == 0
    assert result.vanishing_gradient_share == 1


def test_gradient_diagnostics_are_found_image_by_image(classifier, digits):
    images, labels = (part[:6] for part in digits.tensors)

    def rounded_when_dark(x):
        return torch.where(x.flatten(1).mean(1).reshape(-1, 1, 1, 1) < threshold, (16 * x).round() / 16, x)

    threshold = images.flatten(1).mean(1).median() + 1e-6
    gradients = diagnose_gradients(Before(classifier, rounded_when_dark), images, labels)
    assert torch.equal(gradients.zero, images.flatten(1).mean(1) < threshold)
    assert not (gradients.vanishing | gradients.non_finite | gradients.random).any()
    assert len(GradientDiagnostics.cat([]).zero) == 0
    assert torch.equal(GradientDiagnostics.cat([gradients, gradients]).zero, gradients.zero.repeat(2))


def test_gradients_are_no_matter_to_a_black_box_attack(classifier, loader):
    noise = foolbox_attacks.LinfRepeatedAdditiveUniformNoiseAttack(repeats=50)
    result, found = _run(_attack(method=noise, epsilon=0.5, black_box=True), Before(classifier, torch.detach), loader)
    assert result.huge_epsilon is None
    assert result.n_success > 0
    assert found == []


def test_an_attack_by_gradients_says_where_there_are_none(classifier, loader):
    with pytest.raises(ValueError, match=r"attack attack: .* no gradient reaches the image"):
        _attack().run(Before(classifier, torch.detach), loader)


def test_a_black_box_attack_that_is_stronger_gives_the_gradients_away(classifier, loader):
    noise = _attack("noise", foolbox_attacks.LinfRepeatedAdditiveUniformNoiseAttack(repeats=50), 0.5, black_box=True)
    pgd = _attack("pgd", epsilon=0.5)
    sound = comparison_diagnostics([_run(attack, classifier, loader)[0] for attack in (noise, pgd)])
    assert sound == {}
    masked = Before(classifier, _Reversed.apply)
    (sentence,) = comparison_diagnostics([_run(attack, masked, loader)[0] for attack in (noise, pgd)])["pgd"]
    assert "black-box attack noise changes the class of" in sentence


def _result(name, *, fallen, attacked=100, epsilon=0.1, norm="linf", black_box=False, median=None):
    index = torch.tensor(fallen, dtype=torch.int64)
    empty = torch.zeros(len(index), dtype=torch.int64)
    return AttackResult(
        name=name, norm=norm, epsilon=epsilon, black_box=black_box, images=torch.zeros(len(index), 1, 2, 2),
        index=index, label=empty, prediction=empty + 1, attacked=torch.arange(attacked), median_l1=median,
        median_l2=median, median_linf=median, zero_gradient_share=0.0, vanishing_gradient_share=0.0,
        non_finite_gradient_share=0.0, random_share=0.0, huge_epsilon=None, huge_success_rate=None, seconds=1.0,
    )  # fmt: skip


def test_attacks_are_compared_within_one_norm_and_budget():
    black = _result("square", fallen=range(60), black_box=True)
    assert (
        comparison_diagnostics([black, _result("pgd", fallen=range(50))])["pgd"][0].count(
            "changes the class of 10 of 100"
        )
        == 1
    )
    assert comparison_diagnostics([black, _result("pgd", fallen=range(58))]) == {}
    assert comparison_diagnostics([black, _result("pgd", fallen=range(50), epsilon=0.05)]) == {}
    assert comparison_diagnostics([black, _result("pgd", fallen=range(50), norm="l2")]) == {}
    both = [_result("pgd", fallen=range(30)), _result("bim", fallen=range(25, 60))]
    assert comparison_diagnostics([black, *both]) == {}
    assert comparison_diagnostics(
        [_result("pgd", fallen=range(50), attacked=55), _result("s", fallen=range(51, 90), black_box=True)]
    )


def test_attacks_without_a_budget_are_compared_by_their_medians():
    black = _result("jump", fallen=range(100), epsilon=None, norm="l2", black_box=True, median=0.5)
    white = {name: _result(name, fallen=range(100), epsilon=None, norm="l2", median=m) for name, m in (("a", 0.9),)}
    assert "smaller perturbations (median 0.5" in comparison_diagnostics([black, white["a"]])["a"][0]
    better = _result("b", fallen=range(100), epsilon=None, norm="l2", median=0.4)
    assert comparison_diagnostics([black, white["a"], better]) == {}


@pytest.mark.parametrize(("norm", "p"), [("l1", 1), ("l2", 2), ("linf", torch.inf)])
def test_a_huge_budget_reaches_plain_grey_from_anywhere(norm, p):
    images = torch.rand(50, 12).round()  # black and white: the farthest from grey
    assert (images - 0.5).norm(p=p, dim=1).max() == pytest.approx(huge_budget(norm, 12))
