from types import SimpleNamespace

import torch

from trainers.data.images import ImageArray
from trainers.evaluation.diagnosis import fitted_to, softmax_wins
from trainers.run.preprocessing import digest_of


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


def test_test_images_of_a_folder_that_has_changed_are_found():
    def run(n, divided):
        images = ImageArray(torch.zeros(n, 1, 2, 2), torch.arange(n) % 2, ["a", "b"])
        images.divided = divided
        data = {"calibration_every": 10, "validation_every": 20}
        return SimpleNamespace(
            cfg=SimpleNamespace(data=data), data=SimpleNamespace(training_images=images, test_images=images)
        )

    detector = SimpleNamespace(preprocessing=digest_of(run(40, True).data.training_images))
    assert fitted_to(run(40, True), detector) == []
    assert fitted_to(run(41, False), detector) == []  # test images come with folders of their own
    [finding] = fitted_to(run(41, True), detector)
    assert finding.section == "test-images-that-were-fitted-to"
    assert "40 images" in finding.text
    assert "41 images" in finding.text
