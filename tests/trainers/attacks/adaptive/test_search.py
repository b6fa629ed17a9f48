from dataclasses import replace

import pytest
import torch
from foolbox.attacks import LinfPGD
from hydra.utils import instantiate
from torch.utils.data import DataLoader, TensorDataset

from tests.configuration import configure
from trainers.attacks import Attack
from trainers.attacks.adaptive import AdaptiveAttack, Imitation, Joint, Targeted
from trainers.attacks.adaptive.joint import without
from trainers.attacks.adaptive.objective import lead, likeliest_wrong
from trainers.attacks.frozen import frozen
from trainers.main import CONF

CONFIGS = sorted(path.stem for path in (CONF / "adaptive").glob("[!_]*.yaml"))
EPSILON = 0.15  # digits of 8x8 pixels need more than photographs


def configured(name: str) -> AdaptiveAttack:
    cfg = configure("task=adaptive", f"adaptive=[{name}]").adaptive[name]
    cfg.steps, cfg.restarts = 10, 2
    return instantiate(cfg)


def search(attack, threat, epsilon=EPSILON, seed=0):
    return attack.search(threat, epsilon, torch.Generator().manual_seed(seed))


@torch.no_grad()
def evaded(threat, images):
    verdict = threat.detector(images)
    return verdict.accept & (verdict.prediction != threat.labels)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_attack_keeps_to_its_budget_and_finds_what_the_real_verdict_accepts(name, threat):
    attack = configured(name)
    assert attack.name == name
    state = torch.get_rng_state()
    images = search(attack, threat)
    assert torch.equal(torch.get_rng_state(), state)
    assert images.dtype == torch.float32
    assert images.shape == threat.images.shape
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    assert float((images - threat.images).abs().max()) <= EPSILON * (1 + 1e-5)
    changed = (images != threat.images).flatten(1).any(1)
    assert torch.equal(changed, evaded(threat, images))
    assert int(changed.sum()) > 0


LARGE = 0.3  # enough for plain PGD to leave what is typical


@pytest.fixture(scope="module")
def passed(threat, classifier):
    """How many images of plain PGD the detector accepts."""
    loader = DataLoader(TensorDataset(threat.images, threat.labels), batch_size=50)
    plain = Attack("pgd", LinfPGD(steps=40, rel_stepsize=0.1), LARGE, n_images=None).run(classifier, loader)
    assert plain.success_rate == 1
    with torch.no_grad():
        return int(threat.detector(plain.images).accept.sum())


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "imitation"])
def test_knowing_the_detector_evades_it_more_often_than_plain_pgd(name, threat, passed):
    adaptive = int(evaded(threat, search(configured(name), threat, LARGE)).sum())
    assert adaptive > passed + len(threat.labels) // 8


def test_a_seed_fixes_the_result(threat):
    attack = AdaptiveAttack("joint", Joint(), steps=5, restarts=2)
    first, again = (search(attack, threat.rows(slice(8)), seed=1) for _ in range(2))
    assert torch.equal(first, again)


def test_batches_do_not_matter_to_what_starts_at_the_clean_image(threat):
    options, some = {"steps": 8, "restarts": 1}, threat.rows(slice(10))
    whole = search(AdaptiveAttack("guarded", Targeted(), **options), some)
    parts = search(AdaptiveAttack("guarded", Targeted(), batch_size=7, **options), some)
    torch.testing.assert_close(whole, parts, atol=1e-3, rtol=0)


def test_gradients_of_a_random_detector_are_averaged(threat, monkeypatch):
    calls = []
    extractor = type(threat.detector.extractor)
    forward = extractor.forward
    monkeypatch.setattr(extractor, "forward", lambda self, x: calls.append(len(x)) or forward(self, x))
    search(AdaptiveAttack("joint", Joint(), steps=2, restarts=1, draws=3), threat, 1e-6)
    assert len(calls) == 2 * 3 + 1


def test_detector_and_classifier_are_left_as_they_were(make_detector, make_threat):
    detector = make_detector("max_softmax")
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    wanted = [parameter.requires_grad for parameter in detector.parameters()]
    with frozen(detector):
        search(AdaptiveAttack("joint", Joint(), steps=2, restarts=1), make_threat(detector))
    assert [parameter.requires_grad for parameter in detector.parameters()] == wanted
    assert all(torch.equal(value, before[key]) for key, value in detector.state_dict().items())


def test_targets_are_the_wrong_classes_the_most_probable_first(threat):
    goals = torch.stack([Targeted().goals(threat, restart) for restart in range(9)], 1)
    assert bool((goals != threat.labels[:, None]).all())
    assert bool((goals.sort(1).values.diff(dim=1) > 0).all())  # each class once
    logits = threat.outputs.own_logits.gather(1, goals)
    assert bool((logits.diff(dim=1) <= 0).all())
    assert torch.equal(Targeted().goals(threat, 9), goals[:, 0])


def test_imitated_are_accepted_images_of_other_classes_the_nearest_first(threat):
    objective = Imitation()
    points, others = (objective.points(threat, outputs) for outputs in (threat.outputs, threat.others))
    classes, distances = [], []
    for restart in range(9):
        goals = objective.goals(threat, restart)
        classes.append(threat.others.own_logits.argmax(1)[goals])
        distances.append((points - others[goals]).norm(dim=1))
    classes, distances = torch.stack(classes, 1), torch.stack(distances, 1)
    assert bool((classes != threat.labels[:, None]).all())
    assert bool((classes.sort(1).values.diff(dim=1) > 0).all())
    assert bool((distances.diff(dim=1) >= -1e-4).all())
    distance = torch.cdist(points, others)
    same = threat.others.own_logits.argmax(1) == threat.labels[:, None]
    torch.testing.assert_close(distances[:, 0], distance.masked_fill(same, torch.inf).amin(1), atol=1e-3, rtol=1e-3)


def test_without_images_of_other_classes_there_is_nothing_to_imitate(threat):
    same = threat.others.own_logits.argmax(1) == threat.labels[0]
    alone = replace(threat.rows(slice(1)), others=threat.others.rows(same))
    with pytest.raises(ValueError, match="accepted clean images of other classes"):
        Imitation().goals(alone, 0)


def test_without_budget_an_image_can_be_turned_into_another(threat):
    few = threat.rows(slice(8))
    attack = AdaptiveAttack("joint", Joint(), steps=30, restarts=2)
    assert int(evaded(few, search(attack, few, 1.0)).sum()) == 8


def test_an_orthogonal_part_is_orthogonal():
    generator = torch.Generator().manual_seed(0)
    u, v = torch.randn(2, 5, 3, 4, 4, generator=generator)
    v[0] = 0
    w = without(u, v)
    torch.testing.assert_close((w * v).flatten(1).sum(1), torch.zeros(5), atol=1e-5, rtol=0)
    assert torch.equal(w[0], u[0])
    torch.testing.assert_close(
        (u - w)[1:].flatten(1).norm(dim=1), (u * v).flatten(1).sum(1)[1:].abs() / v.flatten(1).norm(dim=1)[1:]
    )


def test_leads_are_those_by_hand():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    assert lead(logits, torch.tensor([0, 2])).tolist() == [1.0, -4.0]
    assert likeliest_wrong(logits, torch.tensor([0, 0])).tolist() == [[2, 1], [1, 2]]


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"restarts": 0}, {"draws": 0}, {"batch_size": 0}, {"step_sizes": []}, {"step_sizes": [0]}]
)
def test_impossible_arguments_are_refused(options):
    with pytest.raises(ValueError, match=f"attack odd: {next(iter(options))}"):
        AdaptiveAttack("odd", Joint(), **options)


def test_an_unknown_projection_is_refused():
    with pytest.raises(ValueError, match="none, selective, orthogonal; got 'both'"):
        Joint("both")
