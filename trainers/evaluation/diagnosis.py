"""What an evaluation finds that may make its detector, or itself, weak."""

from collections.abc import Mapping
from typing import Any

from gmm_torch.detector import FailureDetector
from gmm_torch.detector.summary import Finding
from trainers.report.tables.text import of_softmax, percent, source_label, told_apart
from trainers.run.preprocessing import digest_of, fitted_images_in_test, split_of, split_otherwise
from trainers.run.run import Run

AMONG_VALIDATION = "may be validation images, whose held_out_log_likelihood in metrics.json is then too high"


def softmax_wins(sources: Mapping[str, Any]) -> list[Finding]:
    """A finding where the largest softmax probability has an AUROC for sure higher on sources of metrics.json."""
    lost = [
        f"{source_label(name)} ({percent(softmax)} % against {percent(source['auroc'])} %)"
        for name, source in sources.items()
        if (softmax := of_softmax(source)) is not None and told_apart(source) < 0
    ]
    if not lost:
        return []
    text = f"the largest softmax probability has the higher AUROC on {len(lost)} of {len(sources)} sources: "
    return [Finding("the-softmax-wins", text + ", ".join(lost))]


def fitted_to(run: Run, detector: FailureDetector) -> list[Finding]:
    """A finding where test images, or else validation images, may be images that the detector was fitted to."""
    fitted, images = detector.preprocessing, run.data.training_images
    digest = digest_of(images)
    now = split_of(run.cfg.data, held_out=False) | digest
    if doubt := fitted_images_in_test(fitted, now, run.data.test_images.divided):
        return [Finding("test-images-that-were-fitted-to", doubt)]
    now = split_of(run.cfg.data, images.held_out is not None) | digest
    if detector.score.models() and (doubt := split_otherwise(fitted, now, AMONG_VALIDATION)):
        return [Finding("validation-images-that-were-fitted-to", doubt)]
    return []
