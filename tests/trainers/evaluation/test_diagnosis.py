from types import SimpleNamespace

import torch

from trainers.data.images import ImageArray
from trainers.evaluation.diagnosis import fitted_to, softmax_wins
from trainers.run.preprocessing import digest_of, split_of


def source(ours, softmax, width=0.002):
    difference = None if ours is None or softmax is None else ours - softmax
    interval = None if difference is None else {"interval": [difference - width / 2, difference + width / 2]}
    baselines = {} if softmax is None else {"max_softmax": {"auroc": softmax}}
    return {"auroc": ours, "auroc_difference": interval, "baselines": baselines}


def test_the_softmax_wins_where_the_interval_of_the_difference_says_so():
    sources = {
        "errors": source(0.955, 0.961),
        "adversarial/fgsm": source(0.99, 0.9),
        "ood/noise": source(0.95, 0.97, width=0.05),
        "ood/mnist": source(0.9, None),
        "ood/none": source(None, None),
    }
    (finding,) = softmax_wins(sources)
    assert finding.section == "the-softmax-wins"
    assert finding.text.endswith("on 1 of 5 sources: test errors (96.1 % against 95.5 %)")
    del sources["errors"]
    assert softmax_wins(sources) == []


def run(n, divided, calibration_every=10):
    images = ImageArray(torch.zeros(n, 1, 2, 2), torch.arange(n) % 2, ["a", "b"])
    images.divided = divided
    data = {"calibration_every": calibration_every, "validation_every": 20}
    return SimpleNamespace(
        cfg=SimpleNamespace(data=data), data=SimpleNamespace(training_images=images, test_images=images)
    )


def fitted_in(run, mixtures=("a",)):
    preprocessing = split_of(run.cfg.data, held_out=False) | digest_of(run.data.training_images)
    return SimpleNamespace(preprocessing=preprocessing, score=SimpleNamespace(models=lambda: mixtures))


def test_validation_images_of_another_split_than_the_fits_are_found():
    """No p-value rests on them, but the log-likelihood by which a mixture is chosen does."""
    detector = fitted_in(run(40, False, 3))
    assert fitted_to(run(40, False, 3), detector) == []
    for other in (run(40, False), run(41, False, 3)):  # a folder train/ that gained an image; test/ lies beside it
        [finding] = fitted_to(other, detector)
        assert finding.section == "validation-images-that-were-fitted-to"
        assert "held_out_log_likelihood" in finding.text
        assert fitted_to(other, fitted_in(run(40, False, 3), mixtures=())) == []
    assert fitted_to(run(40, False), detector)[0].text.endswith("set data.calibration_every=3")


def test_test_images_of_a_folder_that_has_changed_are_found():
    detector = fitted_in(run(40, True))
    assert fitted_to(run(40, True), detector) == []
    [finding] = fitted_to(run(41, True), detector)
    assert finding.section == "test-images-that-were-fitted-to"
    assert "40 images" in finding.text
    assert "41 images" in finding.text
