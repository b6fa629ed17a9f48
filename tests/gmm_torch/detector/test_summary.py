"""What a detector looks at, said in a few lines, before a fit, after it and out of a file."""

from gmm_torch import FailureDetector
from gmm_torch.conformal.mondrian import MondrianCalibration
from tests.gmm_torch.conftest import images


def test_print_says_in_a_few_lines_what_is_looked_at(net, tmp_path):
    detector = FailureDetector(net, n_components=1)
    assert "layers: depths, found at the first batch" in str(detector)
    assert str(detector).count("not yet") == 2
    assert "mondrian: 3 classes" in str(FailureDetector(net, calibration=MondrianCalibration(3)))
    detector.fit(images(80, 0).split(40)).calibrate(images(60, 1).split(60))
    text = str(detector)
    assert len(text.splitlines()) <= 12
    n_layers, width = len(detector.plan.widths), sum(detector.plan.widths.values())
    for line in (
        "classifier: TinyNet, ",
        "score: combined of mean_log_probability 1, moment_likelihood 0.",
        f"layers: {', '.join(detector.plan.widths)}",
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
