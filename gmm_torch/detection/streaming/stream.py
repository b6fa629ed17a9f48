"""A loader's inputs as outputs of a classifier, batch by batch."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from gmm_torch.classifier.inputs import InputKeys, changed, check_loader, has_labels, inputs_of, labels_of
from gmm_torch.detection.features.augmentations import is_image
from gmm_torch.detection.features.extractor import FeatureExtractor
from gmm_torch.detection.features.outputs import Outputs
from gmm_torch.detection.streaming.finite_check import FiniteCheck


@torch.no_grad()
def stream(
    extractor: FeatureExtractor,
    batches: Iterable[Any],
    device: torch.device,
    *,
    labels: bool | None,
    is_open: bool = False,
    together: bool = False,
) -> Iterator[Outputs]:
    """Outputs of each batch x or (x, ...), with the keys of their inputs.

    Args:
        extractor: of a detector.
        batches: any series of them.
        device: where the inputs are brought to.
        labels: whether they are taken, and have to be there; None to take them where there are some.
        is_open: whether what is no image has one view; where nobody chose the views, that is.
        together: whether what is wrong is told in all processes, each of which has batches of its own.

    Raises:
        ValueError: no batch at all, inputs in place of batches, no labels where they are wanted; after the last batch,
            outputs that are not finite.
        TypeError: a batch whose inputs are no tensors, nor arrays.
    """
    check_loader(batches)
    finite, keys = FiniteCheck(), InputKeys()
    for batch in batches:
        x = changed(inputs_of(batch, extractor.adapter), lambda value: value.to(device))
        outputs = extractor(x, extractor.views[:1] if is_open and not is_image(x) else None)
        if has_labels(batch, extractor.adapter) if labels is None else labels:
            outputs = outputs._replace(labels=labels_of(batch, extractor.adapter).to(device))
        finite.add(outputs)
        yield outputs._replace(keys=keys(x))
    finite.check(together=together)
