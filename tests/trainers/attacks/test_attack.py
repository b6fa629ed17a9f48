import pytest
import torch
from foolbox import attacks as foolbox_attacks
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.configuration import configure
from trainers.attacks import Attack
from trainers.attacks.diagnostics import AttackWarning
from trainers.classifiers.small_cnn import SmallCNN
from trainers.main import CONF

GROUPS = sorted(path.stem for path in (CONF / "attack").glob("[!_]*.yaml"))


def _compose(group):
    return configure(f"attack=[{group}]").attack


def _is_single(group):
    """A group with `defaults` puts together attacks that have a file of their own; budget curves have their budgets."""
    found = OmegaConf.load(CONF / "attack" / f"{group}.yaml")
    return list(found) == [group] and "epsilon" in found[group]


SINGLE = [group for group in GROUPS if _is_single(group)]


BUDGETS = {"linf": 0.2, "l2": 2.0}  # digits of 8x8 pixels need more than photographs
NOISES = {"additive_gaussian", "additive_uniform", "repeated_gaussian", "repeated_uniform"}
SHORTER = {  # than in the configs, for time
    "apgd_ce": {"steps": 20},
    "apgd_t": {"steps": 20},
    "fab_t": {"steps": 20},
    "square": {"queries": 200},
    "cw_l2": {"binary_search_steps": 2, "initial_const": 10, "stepsize": 0.05, "steps": 20},
    "ddn": {"steps": 30},
    "auto_attack": {"steps": 20, "queries": 200},
    "hop_skip_jump": {"steps": 3, "initial_gradient_eval_steps": 30},
}
PACKAGES = {"apgd_ce": "pyautoattack", "apgd_t": "pyautoattack", "fab_t": "pyautoattack"}
PACKAGES |= {"square": "pyautoattack", "auto_attack": "pyautoattack"}


def _attack(method=None, epsilon=0.2, **options):
    method = method or foolbox_attacks.LinfFastGradientAttack()
    return Attack("attack", method, epsilon, **options)


@pytest.mark.parametrize("group", GROUPS)
def test_every_config_names_its_attacks(group):
    for name, attack in _compose(group).items():
        if name in PACKAGES:
            pytest.importorskip(PACKAGES[name])
        assert instantiate(attack).name == name


@pytest.mark.parametrize("name", SINGLE)
def test_every_attack_gives_successes_within_its_budget_only(name, classifier, loader):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    cfg = _compose(name)
    cfg[name].n_images = 40
    cfg[name].method.update(SHORTER.get(name, {}))
    if cfg[name].epsilon is not None:
        cfg[name].epsilon = BUDGETS[instantiate(cfg[name]).norm] * (2 if name in NOISES else 1)
    attack = instantiate(cfg[name])
    result = attack.run(classifier, loader, "cpu", seed=0)

    assert result.name == name
    assert result.n_attacked == len(result.attacked) == 40
    assert 0 < result.n_success <= 40
    assert set(result.index.tolist()) <= set(result.attacked.tolist())
    assert result.success_rate == result.n_success / 40
    assert result.images.shape == (result.n_success, 1, 8, 8)
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    clean = torch.stack([loader.dataset[i][0] for i in result.index.tolist()])
    assert [loader.dataset[i][1].item() for i in result.index.tolist()] == result.label.tolist()
    assert (result.index.diff() > 0).all()
    with torch.no_grad():
        assert torch.equal(classifier(clean).argmax(1), result.label)
        assert torch.equal(classifier(result.images).argmax(1), result.prediction)
    assert (result.prediction != result.label).all()
    change = (result.images - clean).flatten(1)
    assert result.median_l2 == pytest.approx(change.norm(dim=1).median().item())
    assert result.median_linf == pytest.approx(change.abs().amax(dim=1).median().item())
    assert result.median_l1 == pytest.approx(change.abs().sum(dim=1).median().item())
    distance = change.norm(p={"l1": 1, "l2": 2, "linf": torch.inf}[result.norm], dim=1)
    assert result.median_norm == pytest.approx(distance.median().item())
    assert result.seconds_per_image > 0
    if attack.epsilon is not None:
        assert distance.max() <= attack.epsilon * (1 + 1e-4)
    if not attack.black_box:
        assert result.success_rate > 0.5
        assert attack.epsilon is None or result.huge_success_rate > 0.5


def test_a_budget_holds_in_the_norm_of_the_attack(classifier, loader):
    attack = _attack(foolbox_attacks.L2PGD(steps=10), 0.8, n_images=60)
    result = attack.run(classifier, loader)
    clean = torch.stack([loader.dataset[i][0] for i in result.index.tolist()])
    assert result.n_success > 0
    assert (result.images - clean).flatten(1).norm(dim=1).max() <= 0.8 * (1 + 1e-4)


def test_a_minimising_attack_with_a_budget_keeps_to_it(classifier, loader):
    smallest = _attack(foolbox_attacks.L2DeepFoolAttack(), None, n_images=60).run(classifier, loader)
    budget = smallest.median_l2
    within = _attack(foolbox_attacks.L2DeepFoolAttack(), budget, n_images=60).run(classifier, loader)
    assert 0 < within.n_success < smallest.n_success
    assert within.median_l2 <= budget * (1 + 1e-4)


def test_fgsm_on_a_linear_classifier_moves_every_pixel_along_the_weights(capfd):
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        classifier[1].weight.copy_(torch.tensor([[1.0, 1.0, -1.0, -1.0], [-1.0, -1.0, 1.0, 1.0]]))
    image = torch.tensor([0.55, 0.55, 0.5, 0.5]).reshape(1, 1, 2, 2)
    loader = DataLoader(TensorDataset(image, torch.tensor([0])))
    result = _attack(epsilon=0.1).run(classifier, loader)
    assert capfd.readouterr() == ("", "")  # no line of progress where there is no terminal
    assert result.prediction.tolist() == [1]
    torch.testing.assert_close(result.images.flatten(), torch.tensor([0.45, 0.45, 0.6, 0.6]))
    assert result.median_l2 == pytest.approx(0.2)
    # logits differ by 2 * 0.1; at eps = 0.02 they still differ by 2 * (0.1 - 4 * 0.02) > 0
    with pytest.warns(AttackWarning, match="no success on 1 images"):
        assert _attack(epsilon=0.02).run(classifier, loader).n_success == 0


def test_only_images_that_are_classified_rightly_are_attacked(classifier, loader):
    images = torch.stack([image for image, _ in loader.dataset])
    with torch.no_grad():
        predicted = classifier(images).argmax(1)
    wrong_labels = predicted.clone()
    wrong_labels[::2] = (predicted[::2] + 1) % 10
    flipped = DataLoader(TensorDataset(images, wrong_labels), batch_size=64)
    result = _attack(n_images=None).run(classifier, flipped)
    assert result.n_attacked == len(images) // 2
    assert (result.index % 2 == 1).all()


def test_a_seed_fixes_images_and_noise_and_leaves_the_global_generator_alone(classifier, loader):
    attack = _attack(foolbox_attacks.LinfPGD(steps=5), 0.1, n_images=30)
    state = torch.get_rng_state()
    first, again, other = (attack.run(classifier, loader, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.index, again.index)
    assert not torch.equal(first.index, other.index)


@pytest.mark.filterwarnings("ignore::trainers.attacks.diagnostics.AttackWarning")
def test_modes_and_gradients_of_the_classifier_are_restored(loader):
    network = SmallCNN(num_classes=10, in_channels=1, width=4).train()
    network.pool.eval()
    network.linear.weight.requires_grad_(False)
    modes = [module.training for module in network.modules()]
    before = {key: value.clone() for key, value in network.state_dict().items()}
    _attack(n_images=10).run(network, loader)
    assert [module.training for module in network.modules()] == modes
    assert [p.requires_grad for p in network.parameters()].count(False) == 1
    assert all(p.grad is None for p in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


class _Constant(nn.Module):
    """Always class 0, whatever the image, with a gradient of zero."""

    def forward(self, x):
        return torch.tensor([1.0, 0.0]) + 0 * x.flatten(1).sum(dim=1, keepdim=True)


def test_no_success_gives_an_empty_result_and_warnings():
    loader = DataLoader(TensorDataset(torch.rand(6, 3, 8, 8), torch.zeros(6, dtype=torch.int64)), batch_size=4)
    with pytest.warns(AttackWarning) as caught:
        result = _attack().run(_Constant(), loader)
    texts = " ".join(str(warning.message) for warning in caught)
    assert "no success on 6 images" in texts
    assert "exactly zero at 100.0%" in texts
    assert result.zero_gradient_share == 1
    _assert_empty(result, n_attacked=6)


def test_nothing_to_attack_gives_an_empty_result_and_a_warning():
    loader = DataLoader(TensorDataset(torch.rand(6, 3, 8, 8), torch.ones(6, dtype=torch.int64)))
    with pytest.warns(AttackWarning, match="no image right"):
        result = _attack().run(_Constant(), loader)
    _assert_empty(result, n_attacked=0)


def _assert_empty(result, n_attacked):
    assert result.n_attacked == n_attacked
    assert result.n_success == 0
    assert result.success_rate == 0
    assert result.images.shape == (0, 3, 8, 8)
    assert result.index.shape == result.label.shape == result.prediction.shape == (0,)
    assert result.index.dtype == result.label.dtype == result.prediction.dtype == torch.int64
    assert result.median_l2 is None
    assert result.median_linf is None


class _Dark(nn.Module):
    """Class 1 only for images that are nearly black."""

    def forward(self, x):
        dark = (x.flatten(1).sum(dim=1) < 1e-3).float()
        return torch.stack([1 - dark, dark], dim=1) * 10 + 0 * x.flatten(1).sum(dim=1, keepdim=True)


@pytest.mark.filterwarnings("ignore:.*exactly zero.*")
def test_the_black_image_of_a_failed_carlini_wagner_search_is_no_success():
    loader = DataLoader(TensorDataset(torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64)))
    method = foolbox_attacks.L2CarliniWagnerAttack(binary_search_steps=1, steps=2)
    with pytest.warns(AttackWarning, match="no success"):
        assert _attack(method, None).run(_Dark(), loader).n_success == 0


def test_a_shuffling_loader_is_refused(classifier, digits):
    with pytest.raises(ValueError, match=r"shuffle=False.*RandomSampler"):
        _attack().run(classifier, DataLoader(digits, shuffle=True))


@pytest.mark.parametrize("value", [1.5, -0.1, float("nan")])
def test_pixels_outside_the_unit_interval_are_refused(classifier, value):
    images = torch.full((2, 1, 8, 8), value)
    with pytest.raises(ValueError, match=r"expected pixels in \[0, 1\]; got some from"):
        _attack().run(classifier, DataLoader(TensorDataset(images, torch.zeros(2, dtype=torch.int64))))


def test_an_empty_data_set_is_refused(classifier, digits):
    with pytest.raises(ValueError, match="empty"):
        _attack().run(classifier, DataLoader(torch.utils.data.Subset(digits, [])))


@pytest.mark.parametrize("epsilon", [8 / 255, "8/255", "0.03137254901960784", "4.0/127.5"])
def test_a_budget_may_be_a_fraction(epsilon):
    assert _attack(epsilon=epsilon).epsilon == pytest.approx(8 / 255)


@pytest.mark.parametrize("epsilon", ["8/0", "8/255/2", "eight", 0, -1, float("nan"), float("inf"), 8])
def test_an_impossible_budget_is_refused(epsilon):
    with pytest.raises(ValueError, match="epsilon: expected"):
        _attack(epsilon=epsilon)


def test_an_attack_that_needs_a_budget_says_so():
    with pytest.raises(ValueError, match="expected a budget for LinfFastGradientAttack; got none: set"):
        _attack(epsilon=None)


@pytest.mark.parametrize("options", [{"n_images": 0}, {"batch_size": 0}, {"method": nn.Identity()}])
def test_other_impossible_arguments_are_refused(options):
    with pytest.raises(ValueError, match="attack attack: "):
        _attack(**options)
