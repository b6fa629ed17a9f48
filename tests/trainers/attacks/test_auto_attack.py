import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from trainers.attacks import Attack
from trainers.attacks.auto_attack import PARTS, AutoAttack

pytest.importorskip("pyautoattack")


def test_the_parts_together_break_what_any_of_them_breaks(classifier, loader):
    options = {"steps": 5, "queries": 50}
    results = {
        part: Attack(part, AutoAttack([part], **options), 0.1, n_images=20).run(classifier, loader) for part in PARTS
    }
    together = Attack("all", AutoAttack(**options), 0.1, n_images=20).run(classifier, loader)
    assert together.n_success >= max(result.n_success for result in results.values())
    assert set(results["apgd_ce"].index.tolist()) <= set(together.index.tolist())


def test_its_euclidean_budget_holds(classifier, loader):
    result = Attack("l2", AutoAttack(["apgd_ce"], norm="l2", steps=10), 0.8, n_images=30).run(classifier, loader)
    clean = torch.stack([loader.dataset[i][0] for i in result.index.tolist()])
    assert result.norm == "l2"
    assert result.n_success > 0
    assert (result.images - clean).flatten(1).norm(dim=1).max() <= 0.8 * (1 + 1e-4)


@pytest.mark.parametrize("options", [{"parts": []}, {"parts": ["pgd"]}, {"norm": "l1"}, {"steps": 0}, {"queries": 0}])
def test_impossible_arguments_are_refused(options):
    with pytest.raises(ValueError, match="AutoAttack"):
        AutoAttack(**options)


def test_two_classes_are_too_few_for_the_targeted_ratio():
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        classifier[1].weight.copy_(torch.tensor([[1.0, 1.0, -1.0, -1.0], [-1.0, -1.0, 1.0, 1.0]]))
    images = torch.rand(8, 1, 2, 2)
    with torch.no_grad():
        loader = DataLoader(TensorDataset(images, classifier(images).argmax(1)))
    with pytest.raises(ValueError, match="apgd_t: expected at least 4 classes; got 2 of"):
        Attack("t", AutoAttack(["apgd_t"]), 0.1).run(classifier, loader)
    assert Attack("fab", AutoAttack(["fab_t"], steps=10), 0.5).run(classifier, loader).n_success > 0
