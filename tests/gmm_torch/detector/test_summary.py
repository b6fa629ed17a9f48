"""What a detector looks at, said in a few lines, before a fit, after it and out of a file."""

import torch

from gmm_torch import FailureDetector
from gmm_torch.conformal.mondrian import MondrianCalibration
from gmm_torch.scores import make_score
from tests.gmm_torch.conftest import images


def test_print_says_in_a_few_lines_what_is_looked_at(net, tmp_path):
    detector = FailureDetector(net, n_components=1)
    assert "layers: depths, found at the first batch" in str(detector)
    assert str(detector).count("not yet") == 2
    assert "mondrian: 3 classes" in str(FailureDetector(net, calibration=MondrianCalibration(3)))
    detector.fit(images(80, 0).split(40)).calibrate(images(60, 1).split(60))
    text = str(detector)
    assert len(text.splitlines()) <= 12
    n_layers, width = len(detector.widths), sum(detector.widths.values())
    for line in (
        "classifier: TinyNet, ",
        "score: combined of mean_log_probability 1, moment_likelihood 0.",
        f"layers: {', '.join(detector.widths)}",
        "found by: the last at each resolution",
        f"pooled: mean and deviation ({n_layers})",
        f"features: {width} numbers, and 3 logits in each view: {4 * (2 * width + 9) / 1000:.1f} kB for each input",
        "passes: 3 for each input (identity, mirror, blur)",
        f"fitted: to 80 inputs of shape {tuple(images(1, 0).shape[1:])}; 16 of them held out of the mixtures, as a",
        "calibrated: on 40 inputs; the others given, a third at most, are a reference of the score",
        "alpha: 0.05",
    ):
        assert line in text
    detector.save(tmp_path / "d.safetensors")
    assert str(FailureDetector.load(tmp_path / "d.safetensors", net)) == text
    fresh = FailureDetector(net, n_components=1)
    fresh.load_state_dict(detector.state_dict())
    assert str(fresh) == text


def test_one_look_at_rows_is_said_as_that(net):
    detector = FailureDetector(net, score=make_score("mahalanobis"), views=1, layers=["head:input"])
    text = str(detector.fit(images(80, 0).split(40)))
    assert "pooled: taken as they are (1)" in text
    assert "found by: named" in text
    assert "passes: 1 for each input (identity)" in text
    assert "held out" not in text  # of a score of one part
    assert "in each view" not in text


def test_how_inputs_are_prepared_is_said_without_the_noise_of_float32(net):
    detector = FailureDetector(net, n_components=1)
    detector.preprocessing = {"mean": torch.tensor([0.05, 0.5]).tolist(), "keep_ratio": True}
    assert "prepared: mean [0.05, 0.5], keep_ratio True\n" in str(detector)


def test_without_values_the_rest_is_said(net):
    detector = FailureDetector(net, n_components=1).fit(images(80, 0).split(40)).calibrate(images(60, 1).split(60))
    text = str(detector)
    assert "moment_likelihood" in text
    kept = [line for line in text.splitlines() if not line.startswith("  score: ")]
    assert [line for line in str(detector.to("meta")).splitlines() if line != "  score: combined"] == kept
