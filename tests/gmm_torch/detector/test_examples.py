import pytest
import torch

from gmm_torch import FailureDetector, FileFormatError
from gmm_torch.detector import examples as examples_module
from gmm_torch.detector.storage import DetectorFile, read_detector, write_detector
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
    shuffled = examples_module.Examples().build(models, 3).fit(models, detector.outputs(batches(230, 1)).rows(other))
    assert torch.equal(other[shuffled.index].sort().values, index)
    outputs = detector.outputs(batches(230, 1))
    assert torch.equal(detector.examples.prediction, outputs.own_logits.argmax(1)[index])
    model = detector.score.models()["moment_likelihood"]
    torch.testing.assert_close(detector.examples.mixtures[0].points, model.points(outputs)[index])
    nearest = detector.explain(images(5, 3)).mixtures["moment_likelihood"].nearest
    assert set(nearest.flatten().tolist()) <= set(index.tolist())


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
    file = read_detector(path)
    for name in ("examples.mixtures.0.predicted", "examples.index"):
        write_detector(path, DetectorFile(file.spec, {k: v for k, v in file.tensors.items() if k != name}))
        with pytest.raises(FileFormatError, match="missing"):
            FailureDetector.load(path, net)


def test_a_state_dict_fills_a_fresh_detector(net):
    detector = FailureDetector(net, n_components=3).fit(batches(200, 1)).calibrate(batches(300, 2))
    holder = torch.nn.ModuleDict({"detector": detector})
    fresh = torch.nn.ModuleDict({"detector": FailureDetector(net, n_components=3, views=1)})
    result = fresh.load_state_dict(holder.state_dict())
    assert not result.missing_keys
    assert not result.unexpected_keys
    for mine, theirs in zip(detector(images(20, 3)), fresh["detector"](images(20, 3)), strict=True):
        assert torch.equal(mine, theirs)
    assert str(fresh["detector"].explain(images(2, 3))[0]) == str(detector.explain(images(2, 3))[0])
    assert fresh["detector"].n_fitted == 200
    assert fresh["detector"].extractor.views == ("identity", "mirror", "blur")


def test_a_state_dict_goes_through_a_file_that_holds_no_code(net, tmp_path):
    detector = FailureDetector(net, n_components=3).fit(batches(200, 1)).calibrate(batches(300, 2))
    torch.save(detector.state_dict(), tmp_path / "state.pt")
    fresh = FailureDetector(net, n_components=3)
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(fresh(images(20, 3)).p_value, detector(images(20, 3)).p_value)


def test_the_state_of_an_unfitted_detector_loads_into_an_unfitted_one(net):
    state = FailureDetector(net).state_dict()
    fresh = FailureDetector(net)
    fresh.load_state_dict(state)
    assert fresh.widths == {}
