import pytest
import torch

from gmm_torch import FailureDetector
from gmm_torch.features import sample as sample_module
from gmm_torch.features.features import Features
from gmm_torch.features.inputs import InputKeys
from gmm_torch.features.sample import Sample
from tests.gmm_torch.conftest import batches, images


def outputs(x):
    return Features(x[:, None, :2], {"a": x[:, None].repeat(1, 2, 1)}, keys=InputKeys()(x))


def drawn(x, size, **bounds):
    sample = Sample(**bounds)
    for part in x.split(size):
        sample.add(outputs(part))
        assert sum(len(kept.logits) for kept in sample._parts) <= max(len(part), 1.25 * sample.capacity)
    return sample.draw()


def points(n, seed=0):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [1, 7, 300, 5000])
def test_what_is_kept_depends_on_what_there_is_alone(size):
    x = torch.cat([points(500), points(40), points(1).expand(100, -1)])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(size))
    expected, found = drawn(x, 100, max_inputs=150), drawn(x[order], size, max_inputs=150)
    assert found.n_given == len(x)
    assert torch.equal(found.outputs.layers["a"], expected.outputs.layers["a"])
    assert torch.equal(x[order][found.outputs.position], expected.outputs.layers["a"][:, 0])
    assert len(found.outputs.logits) == 150


def test_the_bytes_are_bounded_whatever_the_widths():
    kept = drawn(points(3000), 50, max_bytes=10_000).outputs
    assert kept.row_bytes * len(kept.logits) <= 10_000 < kept.row_bytes * (len(kept.logits) + 1)


def test_every_input_is_as_likely_to_be_kept():
    x = points(4000)[points(4000)[:, 0].argsort()]
    position = drawn(x, 100, max_inputs=1000).outputs.position
    counts = torch.bincount(position // 1000, minlength=4).double()
    # chi-squared on 3 degrees of freedom; 21.1 is its 1 - 1e-4 quantile, and fixed content has a fixed outcome
    assert ((counts - 250) ** 2 / 250).sum() < 21.1


def test_many_copies_of_few_inputs_keep_their_shares():
    rare, often = points(30), points(3, seed=1)
    kept = drawn(torch.cat([rare, often.repeat(400, 1)]), 10, max_inputs=333).outputs.layers["a"][:, 0]
    shares = [int((kept == each).all(1).sum()) for each in torch.cat([rare, often])]
    assert shares == [1] * 30 + [101] * 3


def test_all_is_kept_where_it_fits():
    x = torch.cat([points(100), points(20)])
    kept = drawn(x, 30, max_inputs=120).outputs
    assert torch.equal(kept.position.sort().values, torch.arange(120))
    assert kept.sorted_by_content() is kept


@pytest.mark.parametrize("order", ["as it comes", "by class"])
def test_a_fit_to_a_sample_depends_neither_on_order_nor_on_batches(order, net, monkeypatch):
    monkeypatch.setattr(sample_module, "MAX_INPUTS", 150)
    x = images(600, 1)
    other = x[net.eval()(x).argmax(1).argsort(stable=True)] if order == "by class" else x
    first = FailureDetector(net, n_components=2).fit(x.split(600)).calibrate(batches(100, 2))
    second = FailureDetector(net, n_components=2).fit(iter(other.split(50))).calibrate(iter(batches(100, 2)))
    assert (second.n_fitted, second.n_kept) == (600, 150)
    torch.testing.assert_close(second(images(50, 3)).score, first(images(50, 3)).score, rtol=1e-4, atol=1e-4)
    remembered = second.examples.index[second.examples.index < 600]
    assert len(remembered) == 150
    assert torch.equal(second.examples.prediction, net.eval()(other).argmax(1)[remembered])


def test_a_detector_says_how_much_it_kept_and_so_does_its_file(net, monkeypatch, tmp_path):
    monkeypatch.setattr(sample_module, "MAX_INPUTS", 150)
    assert "fitted: not yet" in repr(FailureDetector(net))
    detector = FailureDetector(net, n_components=2).fit(batches(600, 1)).calibrate(batches(100, 2))
    assert "fitted: to 600 inputs of shape" in repr(detector)
    assert "150 of them kept, drawn at random; 30 of them held out of the mixtures" in repr(detector)
    assert detector.score.models()["moment_likelihood"].mixture.n_points == 120
    detector.save(tmp_path / "d.safetensors")
    assert "150 of them kept" in repr(FailureDetector.load(tmp_path / "d.safetensors", net))


def test_bad_inputs_of_a_stream_are_counted_and_the_fit_before_is_kept(net, monkeypatch):
    monkeypatch.setattr(sample_module, "MAX_INPUTS", 100)
    detector = FailureDetector(net, n_components=2).fit(batches(200, 1)).calibrate(batches(100, 2))
    before = detector(images(20, 3))
    x = images(400, 4)
    x[[3, 250, 399]] = torch.nan
    for verb in (detector.fit, detector.calibrate):
        with pytest.raises(
            ValueError, match="features of layer 'norm': expected finite numbers; 3 of 400 inputs give NaN"
        ):
            verb(x.split(50))
    assert all(torch.equal(a, b) for a, b in zip(detector(images(20, 3)), before, strict=True))
