import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import make_moons
from torch import nn

from trainers.classifiers.small_cnn import SmallCNN
from trainers.data.digits import digits
from trainers.modules.vat import (
    VAT,
    constant_statistics,
    entropy,
    kl_divergence,
    vat_loss,
    virtual_adversarial_perturbation,
)


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, torch.Tensor]:
    """A network that knows some digits, and others that it has not seen."""
    torch.manual_seed(0)
    images, labels = digits("train").images.float() / 255, digits("train").targets
    network = SmallCNN(10, in_channels=1, width=16)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(network(images[:200]), labels[:200]).backward()
        optimizer.step()
    return network.eval(), images[-100:]


def changes(network: nn.Module, x: torch.Tensor, perturbation: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        p, q = network(x).log_softmax(1), network(x + perturbation).log_softmax(1)
    return (p.exp() * (p - q)).sum(1)


@pytest.mark.parametrize("eps", [0.1, 0.5])
def test_the_adversarial_direction_changes_predictions_more_than_random_ones(trained, eps):
    network, x = trained
    logits = network(x)
    found = virtual_adversarial_perturbation(network, x, logits, eps=eps, iterations=2)
    torch.testing.assert_close(found.flatten(1).norm(dim=1), torch.full((len(x),), eps))
    ours = changes(network, x, found)
    random = torch.stack(
        [changes(network, x, eps * F.normalize(torch.randn(len(x), 64), dim=1).view_as(x)) for _ in range(20)]
    )
    assert (ours > random.max(dim=0).values).float().mean() > 0.9
    assert ours.mean() > 3 * random.mean()


def test_more_iterations_come_nearer_to_the_leading_eigenvector():
    weight = torch.tensor([[2.0, 0.0, 0.0, 0.3], [0.0, 0.2, 0.1, 0.0], [0.0, 0.0, 0.1, 0.0]])
    x = torch.full((1, 1, 2, 2), 0.1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))
    model[1].weight.data = weight
    p = model(x).softmax(1)[0].detach()
    hessian = weight.T @ (torch.diag(p) - p.outer(p)) @ weight  # of the divergence, at no perturbation
    leading = torch.linalg.eigh(hessian).eigenvectors[:, -1]

    def cosine(iterations: int) -> float:
        torch.manual_seed(0)
        r = virtual_adversarial_perturbation(model, x, model(x), xi=1e-2, eps=1.0, iterations=iterations)
        return abs(float(r.flatten() @ leading))

    assert cosine(1) < cosine(3)
    assert cosine(8) == pytest.approx(1, abs=1e-3)


def test_the_loss_has_gradients_in_the_parameters_and_leaves_none_behind(trained):
    network, x = copy.deepcopy(trained[0]), trained[1]
    virtual_adversarial_perturbation(network, x, network(x))
    assert all(parameter.grad is None for parameter in network.parameters())
    loss = vat_loss(network, x, network(x), eps=0.5)
    assert loss > 0
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


def test_a_constant_prediction_gives_no_perturbation_and_no_nan():
    x = torch.rand(3, 1, 4, 4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    nn.init.zeros_(model[1].weight)
    assert (virtual_adversarial_perturbation(model, x, model(x)) == 0).all()
    assert vat_loss(model, x, model(x)).item() == pytest.approx(0, abs=1e-6)


def test_smoothness_carries_eight_labels_along_two_moons():
    """Section 4.1 of the paper, figure 3."""
    points, truth = make_moons(400, noise=0.05, random_state=0)
    x, y = torch.from_numpy(points).float(), torch.from_numpy(truth)
    labelled = torch.cat([(y == label).nonzero().flatten()[:4] for label in (0, 1)])

    def accuracy(weight: float) -> float:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
        optimizer = torch.optim.Adam(network.parameters(), 0.01)
        for _ in range(300):
            optimizer.zero_grad()
            loss = F.cross_entropy(network(x[labelled]), y[labelled])
            if weight:
                loss = loss + weight * vat_loss(network, x, network(x), xi=0.01, eps=0.3)
            loss.backward()
            optimizer.step()
        return float((network(x).argmax(1) == y).float().mean())

    assert accuracy(0.0) < 0.95 < accuracy(1.0)


def test_divergence_and_entropy_are_those_of_torch_distributions():
    p, q = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    first, second = (torch.distributions.Categorical(logits=logits) for logits in (p, q))
    torch.testing.assert_close(kl_divergence(p, q), torch.distributions.kl_divergence(first, second).mean())
    torch.testing.assert_close(entropy(p), first.entropy().mean())


def test_running_statistics_stay_while_perturbed_images_pass():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, momentum=0.3))
    before = [tensor.clone() for tensor in (network[1].running_mean, network[1].running_var)]
    with constant_statistics(network):
        network(torch.rand(4, 1, 5, 5))
    assert torch.equal(network[1].running_mean, before[0])
    assert torch.equal(network[1].running_var, before[1])
    network(torch.rand(4, 1, 5, 5))
    assert network[1].momentum == 0.3
    assert not torch.equal(network[1].running_mean, before[0])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"xi": 0.0}, "xi: expected a number > 0"),
        ({"iterations": 0}, "iterations: expected an integer >= 1"),
        ({"eps": -1.0}, "eps: expected a number >= 0"),
        ({"weight": -1.0}, "weight: expected a number >= 0"),
        ({"entropy_weight": -1.0}, "entropy_weight: expected a number >= 0"),
    ],
)
def test_options_out_of_range_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        VAT(SmallCNN(10, in_channels=1), 10, partial(torch.optim.SGD, lr=0.1), **option)
