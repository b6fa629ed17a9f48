import torch
from torch import nn

from gmm_torch import FailureDetector
from gmm_torch.detector import detector as detector_module
from gmm_torch.features import extractor
from gmm_torch.features import features as features_module
from gmm_torch.features.augmentations import passes
from gmm_torch.features.features import Chunks, Features, in_chunks
from gmm_torch.scores import make_score
from tests.gmm_torch.conftest import batches, images


def test_batches_are_worked_on_together_and_none_is_left():
    x = torch.arange(100.0)[:, None, None]
    chunks = Chunks(lambda outputs: outputs.logits.flatten().tolist(), nbytes=4 * 10)
    for part in x.split(3):
        chunks.add(Features(part, {}))
    done = chunks.end()
    assert [len(each) for each in done] == [12] * 8 + [4]
    assert [each for part in done for each in part] == list(range(100))


def test_rows_are_computed_of_a_chunk_at_a_time(monkeypatch):
    x, sizes = torch.arange(100.0)[:, None, None], []

    def double(outputs):
        sizes.append(len(outputs.logits))
        return 2 * outputs.logits[:, 0]

    monkeypatch.setattr(features_module, "CHUNK", 4 * 30)
    assert torch.equal(in_chunks(double, Features(x, {})), 2 * x[:, 0])
    assert sizes == [30, 30, 30, 10]
    assert in_chunks(double, Features(x[:0], {})).shape == (0, 1)


def test_calibrating_and_reporting_hold_no_more_than_a_chunk(net, monkeypatch):
    detector = FailureDetector(net, n_components=2).fit(batches(200, 1))
    sizes = []
    monkeypatch.setattr(
        detector_module, "Chunks", lambda work: Chunks(lambda o: (sizes.append(len(o.logits)), work(o))[1], 2000)
    )
    whole = detector.calibrate(batches(400, 2, 20))(images(30, 3))
    detector.component_report(batches(400, 2, 20))
    assert len(sizes) > 10
    assert max(sizes) <= 40
    expected = detector.calibrate(detector.features(batches(400, 2)))(images(30, 3))
    torch.testing.assert_close(whole.score, expected.score)


class Staged(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in [(3, 4), (4, 6), (6, 8)])
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        for stage in self.stages:
            x = nn.functional.max_pool2d(stage(x).relu(), 2)
        return self.head(x.mean((2, 3)))


def test_only_what_the_score_reads_is_caught():
    torch.manual_seed(0)
    net, x = Staged().eval(), torch.rand(5, 3, 16, 16)
    named = ["stages.0", "stages.1:input", "stages.1", "stages.2"]
    three, one = FailureDetector(net, layers=named), FailureDetector(net, layers=named, views=1)
    found = three.extractor(x)
    assert found.logits.shape == (5, 3, 3)
    assert {name: tuple(value.shape) for name, value in found.layers.items()} == {
        "stages.0": (5, 2, 8), "stages.1": (5, 2, 12), "stages.2": (5, 2, 16)
    }  # fmt: skip
    assert three.extractor.layers == list(found.layers)
    assert {name: value.shape[1] for name, value in one.extractor(x).layers.items()} == dict.fromkeys(named, 1)
    two = FailureDetector(
        net, score=make_score("moment_likelihood", n_views=2), layers=named, views=["identity", "blur"]
    )
    ends = ["stages.0", "stages.1", "stages.2"]
    assert {name: value.shape[1] for name, value in two.extractor(x).layers.items()} == dict.fromkeys(ends, 2)
    alone = FailureDetector(net, score=make_score("mean_log_probability"), layers=named, views=3)
    assert {name: value.shape[1] for name, value in alone.extractor(x).layers.items()} == {"stages.2": 1}
    whole = make_score("log_likelihood", transform="unit")
    detector = FailureDetector(net, score=whole, layers=named)
    assert {name: value.shape[1] for name, value in detector.extractor(x).layers.items()} == dict.fromkeys(named, 1)


def test_views_of_one_pass_through_an_accelerator_give_the_same(monkeypatch):
    torch.manual_seed(0)
    net, x = Staged().eval(), torch.rand(5, 3, 16, 16)
    detector = FailureDetector(net, layers=["stages.1", "stages.2"])
    apart = detector.extractor(x)
    monkeypatch.setattr(extractor, "passes", lambda x, names: [torch.cat(passes(x, names))])
    together = detector.extractor(x)
    torch.testing.assert_close(together.layers, apart.layers)
    torch.testing.assert_close(together.logits, apart.logits)
