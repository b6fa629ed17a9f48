"""Room for a stored state: a detector's tensors have sizes that its data decided."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from gmm_torch.detector.storage import part_of
from gmm_torch.errors import FileFormatError
from gmm_torch.features.input_format import KnownFormat
from gmm_torch.features.precision import match_types
from gmm_torch.scores.base import at_most

if TYPE_CHECKING:
    from gmm_torch.detector.parts import DetectorParts


def found_sizes(detector: "DetectorParts") -> dict[str, Any]:
    """What a fit and a calibration found beside tensors, as JSON can hold it."""
    extractor, shape = detector.extractor, detector.extractor.input_shape
    known = [layer for layer in extractor.layers if layer in extractor.statistics]
    return {
        "layers": extractor.layers,
        "found_by": extractor.found_by,
        "statistics": {layer: list(extractor.statistics[layer]) for layer in known},
        "input_shape": None if shape is None else list(shape),
        "views": list(extractor.views),
        "widths": detector.widths,
        "n_classes": detector.n_classes,
        "n_fitted": detector.n_fitted,
        "n_kept": detector.n_kept,
        "precision": detector.precision,
        "format": detector.format.as_json(),
        "preprocessing": detector.preprocessing,
        "class_names": list(detector.class_names),
    }


def take_sizes(detector: "DetectorParts", sizes: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    """Make a detector one that found these sizes, with room for the tensors, which it is not given yet."""
    extractor, shape = detector.extractor, sizes["input_shape"]
    extractor.layers, extractor.views = list(sizes["layers"]), tuple(sizes["views"])
    extractor.found_by, extractor.input_shape = str(sizes["found_by"]), None if shape is None else tuple(shape)
    extractor.statistics = {layer: tuple(names) for layer, names in sizes["statistics"].items()}
    detector.n_fitted, detector.n_kept = int(sizes["n_fitted"]), int(sizes["n_kept"])
    detector.calibrated_in(str(sizes["precision"]), KnownFormat.from_json(sizes["format"]))
    detector.preprocessing = dict(sizes["preprocessing"])
    detector.class_names = sizes["class_names"]
    if not sizes["widths"]:
        return
    stored = {name: part_of(tensors, name) for name in sized_parts(detector)}
    with at_most(detector.score, _most_components(stored["score"])):
        detector.build(dict(sizes["widths"]), int(sizes["n_classes"]))
    detector.score.reserve(_shapes(stored["score"]))
    detector.examples.build(detector.score.models(), detector.n_classes)
    detector.examples.reserve(_shapes(stored["examples"]))
    detector.seen.reserve(_shapes(stored["seen"]))
    for name, part in sized_parts(detector).items():
        match_types(part, stored[name])


def sized_parts(detector: "DetectorParts") -> dict[str, nn.Module]:
    """What is sized by `take_sizes`, by the name that its tensors begin with."""
    names = ("score", "examples", "valid_range", "seen")
    return {name: getattr(detector, name) for name in names}


def make_room_for_state(detector: "DetectorParts", state_dict: Mapping[str, Any], prefix: str) -> None:
    """Make room for the tensors of a state dict, where it has an `extra_state`; FileFormatError for another version."""
    state = state_dict.get(f"{prefix}_extra_state")
    if state is not None:
        sizes = json.loads(bytes(state.tolist()))
        if missing := found_sizes(detector).keys() - sizes.keys():
            raise FileFormatError(
                f"detector state: expected {', '.join(sorted(missing))}, too; got none, as of another version: "
                "fit and calibrate the detector again"
            )
        take_sizes(detector, sizes, part_of(dict(state_dict), prefix.removesuffix(".")))
        detector.to(detector.device)


def _most_components(tensors: dict[str, Tensor]) -> int:
    """How many components the largest stored mixture has; one where there is none."""
    return max((len(value) for name, value in tensors.items() if name.endswith("logits") and value.dim()), default=1)


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}
