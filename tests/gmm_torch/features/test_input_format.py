"""Images that look other than the calibration images are told once, with what they have and what those had."""

import copy
import re
import warnings

import pytest
import torch
from torch import nn

from gmm_torch import FailureDetector, InputsWarning
from gmm_torch.detector import statistics
from gmm_torch.features.inputs import FACTOR, SEVERAL, InputFormat, KnownFormat
from gmm_torch.scores import make_score
from tests.gmm_torch.conftest import PValues, batches, images, of_score

X = images(3, 5)
OTHERS = {
    "size": (X.repeat(1, 1, 2, 3), "expected 6 x 6 pixels, as of the calibration images; got 12 x 18 pixels:"),
    "bytes": (255 * X, r"expected numbers from \S+ to 1, as of .*; got numbers from \d\.\d+ to 25\d:"),
    "a 255th": (X / 255, r"to 1, in every image some of at least 0\.\d+, as of .*; got numbers from \S+ to 0\.00\d+:"),
    "normalised": (
        (X - 0.5) / 0.25,
        r"expected numbers from \S+ to 1, as of .*; got numbers from -\d\.\d+ to \d\.\d+:",
    ),
    "twice": (2 * X - 1, r"expected numbers from \S+ to 1, as of .*; got numbers from -0\.\d+ to 0\.\d+:"),
}


def told(call) -> list[str]:
    """What a call says of its inputs, at a line of this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    found = [each for each in caught if each.category is InputsWarning]
    assert all(each.filename == __file__ for each in found)
    return [str(each.message) for each in found]


@pytest.fixture
def detector():
    return copy.deepcopy(of_score("max_softmax"))


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("verb", ["forward", "margin", "explain"])
def test_another_format_is_told_once_with_both(detector, name, verb):
    x, message = OTHERS[name]
    ask = getattr(detector, verb)
    (found,) = told(lambda: ask(x))
    assert re.search(message, found)
    assert not told(lambda: ask(x))


class Photograph(torch.Tensor):
    """As libraries of images have their own."""


def test_images_of_a_class_of_their_own_are_told(detector):
    assert not told(lambda: detector(X.as_subclass(Photograph)))
    (found,) = told(lambda: detector((255 * X).as_subclass(Photograph)))
    assert re.search(r"got numbers from \S+ to 25\d", found)


def test_what_the_calibration_had_is_not_told(detector):
    unreadable = torch.cat([X, torch.full_like(X, torch.nan), torch.full_like(X, torch.inf)])
    for x in (X, X[:0], 0 * X, X.half().float(), X * (FACTOR - 1), X - 0.09, unreadable):
        assert not told(lambda x=x: detector(x))


class TakesBytes(nn.Module):
    """Logits of images of any type."""

    def __init__(self) -> None:
        super().__init__()
        self.net = of_score("max_softmax").classifier

    def forward(self, x):
        return self.net(x.float())


def test_bytes_are_told_in_place_of_numbers_up_to_one_and_the_other_way_round():
    as_bytes = [(255 * x).round().to(torch.uint8) for x, _ in batches(300, 2)]
    plain = (
        FailureDetector(TakesBytes(), score=make_score("max_softmax")).fit(batches(300, 1)).calibrate(batches(300, 2))
    )
    (found,) = told(lambda: plain(as_bytes[0]))
    assert re.search(
        r"expected floating point, numbers from .* to 1, as .*; got integers, numbers from 0 to 255:", found
    )
    taught = copy.deepcopy(plain).calibrate(as_bytes)
    assert not told(lambda: taught(as_bytes[0]))
    (found,) = told(lambda: taught(X))
    assert re.search(
        r"expected integers, numbers from 0 to 255, in every .*, as .*; got floating point, numbers from", found
    )


def test_sizes_that_varied_at_calibration_are_no_matter(detector):
    wide = [(x.repeat(1, 1, 2, 2), label) for x, label in batches(100, 3)]
    detector.calibrate([*batches(300, 2), *wide])
    assert not told(lambda: detector(X.repeat(1, 1, 3, 3)))
    assert told(lambda: detector(255 * X.repeat(1, 1, 3, 3)))


@pytest.mark.parametrize("where", [0, 2])
def test_a_batch_of_no_images_hides_nothing_of_the_others(detector, where):
    known = detector.format
    some = [x for x, _ in batches(300, 2)]
    detector.calibrate([*some[:where], some[0][:0], *some[where:]])
    assert detector.format == known
    assert told(lambda: detector(X.repeat(1, 1, 2, 2)))


@pytest.mark.parametrize("known", [True, False])
def test_processes_gather_what_all_of_them_have(detector, known, monkeypatch):
    here = detector.statistics(detector.features(batches(30, 2)))
    there = ("float32", "6 x 6 pixels", "floating point", known)
    monkeypatch.setattr(statistics, "gather_objects", lambda facts: [facts, there])
    found = here.gathered().format
    assert (found.size, found.numbers) == here.format[:2]
    assert (found.extremes is not None) == known


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32, torch.float8_e5m2, torch.bfloat16])
def test_numbers_of_every_type_are_compared(dtype):
    found = InputFormat.of(torch.tensor([[0, 2], [64, 1]]).to(dtype).view(2, 1, 1, 2))
    assert found.extremes.tolist() == [[0, 2], [1, 64]]
    assert found.numbers == ("floating point" if dtype.is_floating_point else "integers")


def test_a_missing_normalisation_is_told_of_several_images(detector):
    """One bright image may have nothing below zero where each of the calibration images had."""
    normalised = [((x - 0.5) / 0.25, label) for x, label in batches(300, 2)]
    detector.calibrate(normalised)
    plain = images(SEVERAL, 6)
    for some in (plain[: SEVERAL - 1], 0 * plain, (plain - 0.5) / 0.25):
        assert not told(lambda some=some: detector(some))
    (found,) = told(lambda: detector(plain))
    assert re.search(r"expected numbers from -2 to 2, in every image some below zero, as .*; got numbers from 0", found)


def test_rows_and_sequences_are_never_told():
    rows = torch.randn(600, 6, generator=torch.Generator().manual_seed(0))
    detector = FailureDetector(nn.Sequential(nn.Linear(6, 3)), score=make_score("max_softmax"))
    detector.fit(rows[:300].split(100)).calibrate(rows[300:].split(100))
    assert not told(lambda: detector(1000 * rows[:5]))


@pytest.mark.parametrize("way", ["file", "features"])
def test_the_format_comes_along(detector, way, tmp_path):
    if way == "file":
        detector.save(tmp_path / "d.safetensors")
        found = FailureDetector.load(tmp_path / "d.safetensors", detector.classifier)
    else:
        found = FailureDetector(detector.classifier, score=make_score("max_softmax"))
        found.fit(batches(300, 1)).calibrate(detector.features(batches(300, 2)))
    assert found.format == detector.format
    assert len(told(lambda: found(255 * X))) == 1
    found.fit(batches(300, 1))
    assert found.format == KnownFormat()


def test_traced_code_says_nothing(detector):
    model = PValues(detector)
    size = torch.export.Dim("n", min=2, max=64)
    exported = []
    assert not told(lambda: exported.append(torch.export.export(model, (255 * X,), dynamic_shapes=({0: size},))))
    assert not told(lambda: torch.compile(model, backend="eager")(255 * X))
    assert not told(lambda: torch.func.jacrev(lambda x: detector.margin(x).sum())(255 * X))
    assert torch.equal(exported[0].module()(X), model(X))


def test_nothing_is_read_of_values_that_are_not_on_the_host():
    known = KnownFormat("6 x 6 pixels", "floating point", (0.5, 1.0))
    there = InputFormat.of(torch.empty(3, 1, 8, 8, dtype=torch.uint8, device="meta"))
    assert set(known.differences(there)) == {"size", "numbers"}
