"""Where the softmax finds failures better than the detector."""

from collections.abc import Mapping
from typing import Any

from gmm_torch.detection.diagnosis import Finding
from trainers.report.tables.text import of_softmax, percent, source_label, told_apart


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
