"""Detector files made to harm."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from gmm_torch import FailureDetector, FileFormatError
from gmm_torch.detector.file import VERSION, read_parts, write_parts
from tests.faults.mutate import deep
from tests.faults.parsers import PICKLES, make_detector, net, sealed
from tests.faults.watch import bounded_memory, no_code, no_hang


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "detector.safetensors"
    make_detector("combined").save(path)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path, sound):
    (tmp_path / "detector.safetensors").write_bytes(sound)
    return tmp_path / "detector.safetensors"


def load(path):
    with bounded_memory(), no_hang(), no_code():
        return FailureDetector.load(path, net())


def rewrite(path, change):
    words, tensors = read_parts(path)
    spec = json.loads(words)
    write_parts(path, change(spec) or spec, tensors)


@pytest.mark.parametrize("pickled", PICKLES)
def test_a_pickle_is_refused(path, pickled):
    path.write_bytes(pickled)
    with pytest.raises(FileFormatError, match=r"truncated or no safetensors file .*: copy it again, or fit"):
        load(path)


@pytest.mark.parametrize("place", ["score", "calibration", "options", "top"])
def test_a_target_in_a_detector_is_never_followed(path, tmp_path, place):
    target = {"_target_": "pathlib.Path.touch", "_args_": [str(tmp_path / "followed")]}

    def change(spec):
        if place == "top":
            return spec | target
        if place == "options":
            spec["score"]["options"] |= target
        else:
            spec[place] |= target
            spec[place]["name"] = "pathlib.Path"
        return spec

    rewrite(path, change)
    with pytest.raises(FileFormatError):
        load(path)
    assert not (tmp_path / "followed").exists()


@pytest.mark.parametrize("size", [2**20, 2**24, 2**31, 2**63, 10**30])
@pytest.mark.parametrize("what", ["n_components", "n_classes", "widths"])
def test_sizes_that_the_file_does_not_hold_cost_nothing(path, size, what):
    def change(spec):
        if what == "n_components":
            spec["score"]["options"][what] = size
        elif what == "widths":
            spec[what] = dict.fromkeys(spec[what], size)
        else:
            spec[what] = size

    rewrite(path, change)
    if what == "n_components" and size < 2**63:  # asked for; the file holds as many as points carried
        assert load(path).score.models()["moment_likelihood"].mixture.n_components <= 10
        return
    with pytest.raises(FileFormatError):
        load(path)


def test_classes_by_the_million_for_a_table_of_pairs_are_refused(tmp_path):
    path = tmp_path / "detector.safetensors"
    make_detector("max_softmax").save(path)
    options = {"n_classes": 2**24, "min_size": None}
    rewrite(path, lambda spec: spec | {"calibration": {"name": "mondrian", "options": options}})
    with pytest.raises(FileFormatError, match="at most 16384"):
        load(path)


@pytest.mark.parametrize("spec", [deep(), '{"a": 1' + "0" * 5000 + "}", "[]", "", "{}", '{"layers": NaN}', "\x00"])
def test_a_description_that_is_none_is_refused(path, spec):
    path.write_bytes(sealed(spec, load_file(path)))
    with pytest.raises(FileFormatError, match=r"damaged description.*: copy it again"):
        load(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", float("nan")), ("alpha", 1.0), ("alpha", 1e-9), ("alpha", "0.05"), ("seed", 1e999), ("n_fitted", -1),
        ("layers", ["head"]), ("layers", [3]), ("layers", "penultimate"), ("views", [["identity"]]), ("views", []),
        ("classifier", {}), ("classifier", None), ("score", []), ("calibration", {"name": "marginal"}),
        ("widths", {"head:input": True}), ("found_by", 3), ("input_shape", [3, -1]),
        ("statistics", {"head:input": []}), ("statistics", {"head:input": ["median"]}),
        ("statistics", {"head:input": ["mean"] * 5}), ("n_classes", 2.0), ("n_classes", 10**400),
        ("class_names", ["one"]), ("class_names", "ab"), ("class_names", [1, 2]), ("format", {}), ("format", None),
        ("format", {"size": "", "numbers": "", "smallest": [0.0], "largest": [1.0]}),
        ("format", {"size": "", "numbers": "", "smallest": [], "largest": [0.0, 1.0]}),
        ("format", {"size": "", "numbers": 3, "smallest": [], "largest": []}),
        ("format", {"size": "", "numbers": "", "smallest": [0.0, float("nan")], "largest": [0.0, 1.0]}),
        ("format", {"size": "", "numbers": "", "smallest": [0.0, 0.0], "largest": [1.0, 0.5]}),
        ("format", {"size": "", "numbers": "", "smallest": [0.0, 2.0], "largest": [1.0, 1.5]}),
        ("format", {"size": "x" * 10**6, "numbers": "", "smallest": [], "largest": []}),
        ("format", {"size": "", "numbers": "\x1b[31m", "smallest": [], "largest": []}),
        ("preprocessing", []), ("preprocessing", {"mean": None}), ("preprocessing", {"mean": [[0.5]]}),
    ],
)  # fmt: skip
def test_values_that_no_detector_has_are_refused(path, name, value):
    rewrite(path, lambda spec: spec | {name: value})
    with pytest.raises(FileFormatError):
        load(path)


def test_one_flipped_bit_is_found(path):
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 2, len(content), 997):
        content[place] ^= 1
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match=r"is damaged, .*: copy it again"):
            load(path)
        content[place] ^= 1
    path.write_bytes(content)
    load(path)


def test_a_mixture_that_was_never_fitted_is_refused(path):
    words, tensors = read_parts(path)
    name = next(name for name in tensors if name.endswith("fitted"))
    write_parts(path, json.loads(words), tensors | {name: torch.tensor(False)})
    with pytest.raises(FileFormatError, match="no parameters"):
        load(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("index", -1), ("index", 2**40), ("prediction", -1), ("prediction", 2), ("mixtures.0.predicted", -1)],
)
def test_numbers_of_inputs_and_classes_that_there_are_not_are_refused(path, name, value):
    words, tensors = read_parts(path)
    changed = tensors[f"examples.{name}"].clone()
    changed.view(-1)[0] = value
    write_parts(path, json.loads(words), tensors | {f"examples.{name}": changed})
    with pytest.raises(FileFormatError, match="examples"):
        load(path)


def test_a_file_of_the_version_before_is_refused(path):
    spec = read_parts(path)[0]
    save_file(
        load_file(path), path, metadata={"format": "gmm_torch.detector", "version": str(VERSION - 1), "spec": spec}
    )
    with pytest.raises(FileFormatError, match=f"version {VERSION - 1}, this library reads {VERSION}"):
        load(path)
