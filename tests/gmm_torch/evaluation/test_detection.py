import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics.classification import BinaryAUROC

from gmm_torch import FailureDetector
from gmm_torch.evaluation.detection import evaluate
from gmm_torch.evaluation.metrics import aurc, fpr_at_tpr, unit_ranks


def images(n, seed):
    return torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        net[3].bias -= net(images(200, 9)).mean(0)
    return (
        FailureDetector(net, n_components=2, views=1).fit(images(300, 1).split(60)).calibrate(images(200, 2).split(50))
    )


def test_the_numbers_are_those_of_the_metrics(detector):
    x, noise = images(90, 3), 2 * images(40, 4)
    verdict, bad = detector(x), detector(noise)
    label = torch.where(torch.arange(90) % 3 == 0, (verdict.prediction + 1) % 3, verdict.prediction)
    found = evaluate(detector, zip(x.split(40), label.split(40), strict=True), {"noise": noise.split(17)})
    wrong = verdict.prediction != label
    assert found["accuracy"] == pytest.approx(60 / 90)
    assert found["false_alarm_rate"] == pytest.approx(float((~verdict.accept).double().mean()))
    assert (found["errors/n"], found["noise/n"]) == (30, 40)
    assert found["noise/refused"] == pytest.approx(float((~bad.accept).double().mean()))
    softmax, of_noise = verdict.logits.softmax(1).amax(1), bad.logits.softmax(1).amax(1)
    for prefix, clean, other in (("", verdict.score, bad.score), ("softmax_", softmax, of_noise)):
        assert found[f"errors/{prefix}aurc"] == pytest.approx(float(aurc(clean, wrong)))
        for source, failures in (("errors", clean[wrong]), ("noise", other)):
            scores = torch.cat([clean[~wrong], failures]).detach()
            failure = torch.arange(len(scores)) >= 60
            assert found[f"{source}/{prefix}fpr95"] == pytest.approx(float(fpr_at_tpr(scores[:60], failures)))
            assert found[f"{source}/{prefix}auroc"] == pytest.approx(float(BinaryAUROC()(unit_ranks(scores), ~failure)))


def test_what_is_undefined_is_left_out(detector):
    x = images(30, 3)
    prediction = detector(x).prediction
    found = evaluate(detector, [(x, prediction)])
    assert found["errors/n"] == found["errors/aurc"] == 0
    assert not {"errors/auroc", "errors/refused", "errors/softmax_fpr95"} & found.keys()
    found = evaluate(detector, [(x, (prediction + 1) % 3)], {"noise": [x]})
    assert "noise/auroc" not in found
    assert found["noise/refused"] == found["false_alarm_rate"]
    assert all(value == value for value in found.values())


def test_a_loader_that_gives_nothing_is_an_error(detector):
    with pytest.raises(ValueError, match="at least one batch"):
        evaluate(detector, [])


@pytest.mark.parametrize(
    ("ood", "message"),
    [
        (lambda x: {"errors": [x]}, "ood: expected names other than 'errors'"),
        (lambda x: {"a/b": [x]}, "ood: expected names .* without a slash; got 'a/b'"),
        (lambda x: {1: [x]}, "ood: expected names .*; got 1: rename it"),
        (lambda x: DataLoader(x), r"ood: expected \{'name': loader, ...\}; got DataLoader: give each loader a name"),
        (lambda x: {"noise": None}, r"ood\['noise'\]: expected batches .*; got NoneType: give a DataLoader"),
        (lambda x: {"noise": []}, r"ood\['noise'\]: expected at least one batch"),
    ],
)
def test_out_of_distribution_loaders_have_names_of_their_own(detector, ood, message):
    x = images(20, 3)
    with pytest.raises((TypeError, ValueError), match=message):
        evaluate(detector, [(x, detector(x).prediction)], ood(x))
