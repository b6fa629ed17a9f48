import json

import pytest
import torch

from gmm_torch import FailureDetector, FileFormatError
from gmm_torch.detector import examples as examples_module
from gmm_torch.detector.file import read_parts, write_parts
from gmm_torch.scores import make_score
from tests.gmm_torch.conftest import batches, images


def test_large_fitting_sets_are_thinned_at_random_whatever_their_order(net, monkeypatch):
    monkeypatch.setattr(examples_module, "MAX_KEPT", 50)
    detector = FailureDetector(net, n_components=2).fit(batches(230, 1)).calibrate(batches(60, 2))
    index = detector.examples.index
    assert len(index) == 50
    assert bool((index.diff() > 0).all())
    assert bool((index.diff() > 9).any())  # not evenly spaced
    other = torch.randperm(230, generator=torch.Generator().manual_seed(3))
    models = detector.score.models()
    shuffled = examples_module.Examples().build(models, 3).fit(models, detector.features(batches(230, 1)).rows(other))
    assert torch.equal(other[shuffled.index].sort().values, index)
    outputs = detector.features(batches(230, 1))
    assert torch.equal(detector.examples.prediction, outputs.own_logits.argmax(1)[index])
    model = detector.score.models()["moment_likelihood"]
    torch.testing.assert_close(detector.examples.mixtures[0].points, model.points(outputs)[index])
    facts = [each.mixtures["moment_likelihood"] for each in detector.explain(images(5, 3))]
    assert {position for each in facts for position, _, _ in each.nearest} <= set(index.tolist())


def test_wide_features_are_kept_within_a_bound(net, monkeypatch):
    monkeypatch.setattr(examples_module, "MAX_NUMBERS", 1000)
    detector = FailureDetector(net, n_components=2).fit(batches(230, 1))
    width = sum(model.mixture.n_features for model in detector.score.models().values())
    assert len(detector.examples.index) == 1000 // width


def test_a_score_without_mixtures_remembers_nothing(net):
    detector = FailureDetector(net, score=make_score("max_softmax")).fit(batches(50, 1))
    assert sum(value.numel() for value in detector.examples.state_dict().values()) == 0


def test_a_new_fit_forgets_labels(net):
    detector = FailureDetector(net, n_components=2).fit(batches(100, 1))
    detector.component_report([(images(9, 4), torch.zeros(9, dtype=torch.long))])
    assert detector.examples.mixtures[0].labelled.sum() == 9
    detector.fit(batches(100, 1))
    assert detector.examples.mixtures[0].labelled.sum() == 0


def test_a_file_whose_memory_is_damaged_is_refused(net, tmp_path):
    path = tmp_path / "d.safetensors"
    FailureDetector(net, n_components=2).fit(batches(100, 1)).calibrate(batches(60, 2)).save(path)
    words, tensors = read_parts(path)
    for name in ("examples.mixtures.0.predicted", "examples.index"):
        write_parts(path, json.loads(words), {k: v for k, v in tensors.items() if k != name})
        with pytest.raises(FileFormatError, match="missing"):
            FailureDetector.load(path, net)
