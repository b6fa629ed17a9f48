from functools import partial

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from tests.configuration import configure
from trainers.classifiers.small_cnn import SmallCNN
from trainers.modules.adversarial_training import AdversarialTraining
from trainers.modules.classifier_module import ClassifierModule
from trainers.run.training import new_module

ADAM = partial(torch.optim.AdamW, lr=0.01)
EPSILON = 0.1


@pytest.fixture(scope="module")
def digits():
    bunch = load_digits()
    return torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16, torch.tensor(bunch.target)


def trained(kind, digits, n_batches=180, **options):
    images, labels = digits
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = kind(SmallCNN(10, 1, width=16), 10, ADAM, **options)
        optimizer = ADAM(module.parameters())
        for step in range(n_batches):
            chosen = torch.arange(step * 64, (step + 1) * 64) % 1400
            optimizer.zero_grad()
            module.loss((images[chosen], labels[chosen])).backward()
            optimizer.step()
    return module.eval()


@pytest.fixture(scope="module")
def robust(digits):
    return trained(AdversarialTraining, digits, epsilon=EPSILON, steps=4, step_size=EPSILON / 2)


@pytest.fixture(scope="module")
def attacker(digits):
    """Attacks any classifier as the training does, with more steps."""

    def attack(classifier):
        module = AdversarialTraining(classifier, 10, ADAM, epsilon=EPSILON, steps=15, step_size=EPSILON / 5)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return module.attacked(*(part[1400:] for part in digits))

    return attack


def test_attacked_images_keep_to_the_budget_and_raise_the_loss(digits, robust, attacker):
    images, labels = (part[1400:] for part in digits)
    found = attacker(robust.classifier)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert float((found - images).abs().max()) <= EPSILON * (1 + 1e-5)
    noise = (images + EPSILON * (2 * torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) - 1)).clamp(
        0, 1
    )
    with torch.no_grad():
        attacked, disturbed = (F.cross_entropy(robust(x), labels) for x in (found, (images + noise).clamp(0, 1)))
    assert attacked > 1.5 * disturbed


def test_it_makes_a_classifier_that_is_harder_to_attack(digits, robust, attacker):
    images, labels = (part[1400:] for part in digits)
    plain = trained(ClassifierModule, digits)
    with torch.no_grad():
        clean, held = (
            [float((m(x).argmax(1) == labels).float().mean()) for m, x in zip((plain, robust), pair, strict=True)]
            for pair in ((images, images), (attacker(plain.classifier), attacker(robust.classifier)))
        )
    assert min(clean) > 0.85
    assert held[1] > held[0] + 0.3


def test_the_attack_leaves_the_classifier_as_it_was(digits):
    module = AdversarialTraining(SmallCNN(10, 1, width=8), 10, ADAM).train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    module.attacked(digits[0][:8], digits[1][:8])
    assert module.classifier.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in module.parameters())
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_the_config_is_that_of_the_paper():
    module = new_module(configure("training=adversarial").training, SmallCNN(10, 1, width=8), 10)
    assert (module.epsilon, module.steps, module.step_size) == (pytest.approx(8 / 255), 7, pytest.approx(2 / 255))


@pytest.mark.parametrize(
    "options", [{"epsilon": 0}, {"epsilon": "eight"}, {"epsilon": 8}, {"step_size": -1}, {"steps": 0}]
)
def test_impossible_budgets_are_refused(options):
    with pytest.raises(ValueError, match=f"adversarial training: {next(iter(options))}: expected"):
        AdversarialTraining(SmallCNN(10, 1, width=8), 10, ADAM, **options)
