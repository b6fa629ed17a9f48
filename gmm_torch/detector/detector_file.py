"""A detector to and from a file; see `FailureDetector.save` and `FailureDetector.load`."""

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from gmm_torch.conformal import make_calibration
from gmm_torch.detector.description import (
    ENTRIES,
    check_class_names,
    check_description,
    check_preprocessing,
)
from gmm_torch.detector.state import found_sizes, sized_parts, take_sizes
from gmm_torch.detector.storage import (
    AGAIN,
    DetectorFile,
    check_fit,
    fingerprint,
    part_of,
    read_detector,
    write_detector,
)
from gmm_torch.errors import FileFormatError
from gmm_torch.features.adapter import Adapter
from gmm_torch.features.places import parse
from gmm_torch.features.precision import leave_inference_mode
from gmm_torch.features.wrappers import check_network, named_networks, unwrapped_names
from gmm_torch.mixture import GaussianMixture
from gmm_torch.scores import make_score

if TYPE_CHECKING:
    from gmm_torch.detector.detector import FailureDetector

D = TypeVar("D", bound="FailureDetector")


def save_detector(detector: "FailureDetector", path: str | os.PathLike[str]) -> None:
    """See `FailureDetector.save`; the detector is fitted."""
    _check_calibrated(detector)
    check_preprocessing(detector.preprocessing)
    check_class_names(detector.class_names, detector.n_classes)
    found = found_sizes(detector) | {
        "score": {"name": detector.score.name, "options": detector.score.options()},
        "calibration": {"name": detector.calibration.name, "options": detector.calibration.options()},
        "alpha": detector.alpha,
        "seed": detector.seed,
        "classifier": fingerprint(detector.classifier),
        "versions": {"torch": torch.__version__},
    }
    parts = sized_parts(detector) | {"calibration": detector.calibration}
    tensors = {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}
    write_detector(path, DetectorFile({name: found[name] for name in ENTRIES}, tensors))


def load_detector(
    cls: type[D], path: str | os.PathLike[str], classifier: nn.Module, *, strict: bool, adapter: Adapter | None
) -> D:
    """See `FailureDetector.load`."""
    if isinstance(path, nn.Module):
        raise TypeError(f"path: expected that of a detector file; got a {type(path).__name__}: give (path, classifier)")
    check_network(classifier)
    file, what = read_detector(path), f"detector file: {path}"
    spec = file.spec
    try:
        check_description(spec)
    except ValueError as error:
        raise FileFormatError(f"{what} has a damaged description ({error}): {AGAIN}") from error
    actual, stored = fingerprint(classifier), spec["classifier"]
    if actual["structure"] != stored["structure"]:
        nested = found_nested(classifier, stored["structure"], spec["layers"][0])
        if nested is not None:
            raise ValueError(
                f"classifier: its layers are those the detector {path} was fitted to, under other names; {nested}"
            )
    for part, meaning in (("structure", "layers or shapes"), ("weights", "weights")):
        if actual[part] != stored[part] and (strict or part == "structure"):
            read = f", which reads {', '.join(spec['layers'][:3])}" if part == "structure" else ""
            read += _other_moments(classifier, spec["preprocessing"])
            raise ValueError(
                f"classifier: its {meaning} are not those the detector {path} was fitted to{read}; load that "
                "classifier's checkpoint (`with_normalization` makes that of a detector of the command line), "
                "or fit and calibrate a detector for this one"
            )
    try:
        with torch.device("meta"):  # where sizes cost no memory
            blank = _empty(cls, classifier, file, adapter)
        for part, module in sized_parts(blank).items():
            check_fit(module, part_of(file.tensors, part), what)
        detector = _empty(cls, classifier, file, adapter)
        for part, module in (sized_parts(detector) | {"calibration": detector.calibration}).items():
            module.load_state_dict(part_of(file.tensors, part))
        for module in detector.score.modules():
            if isinstance(module, GaussianMixture):
                module.require_fitted()
        detector.examples.check(detector.n_fitted, detector.n_classes)
        _check_calibrated(detector)
    except FileFormatError:
        raise
    except Exception as error:  # what a description can ask for has no bounds
        raise FileFormatError(f"{what}: no detector can be made of it ({error})") from error
    leave_inference_mode(detector.to(detector.device))
    detector.know_weights()
    return detector


def _empty(cls: type[D], classifier: nn.Module, file: DetectorFile, adapter: Adapter | None) -> D:
    """A detector as described, with room for stored tensors."""
    score, calibration = file.spec["score"], file.spec["calibration"]
    detector = cls(
        classifier,
        **{name: file.spec[name] for name in ("layers", "views", "alpha", "seed")},
        score=make_score(score["name"], **score["options"]),
        calibration=make_calibration(calibration["name"], **calibration["options"]),
        adapter=adapter,
    )
    take_sizes(detector, file.spec, file.tensors)
    return detector


def _check_calibrated(detector: "FailureDetector") -> None:
    """Raise unless there are calibration scores, and enough for alpha."""
    detector.calibration.threshold(detector.alpha)
    detector.calibration.target(detector.alpha)


def _other_moments(classifier: nn.Module, preprocessing: Mapping[str, Any]) -> str:
    """What to say where a `NormalizedClassifier` normalises otherwise than at a detector's fit; nothing elsewhere."""
    normalize = dict(classifier.named_children()).get("normalize")
    for name in ("mean", "std"):
        own, fitted = getattr(normalize, name, None), preprocessing.get(name)
        if isinstance(own, Tensor) and isinstance(fitted, list):
            found = [float(f"{value:.6g}") for value in own.flatten().tolist()]
            if found != fitted:
                return f" (its {name} is {found}, that of the fit {fitted})"
    return ""


def found_nested(classifier: nn.Module, structure: str, layer: str) -> str | None:
    """How names of a classifier's layers differ from those stored, by hash and one of them; None unless by a prefix."""
    networks, names = dict(named_networks(classifier)), sorted(unwrapped_names(classifier).values())
    if not names:
        return None
    for prefix in _before(parse(layer).module, networks):
        if fingerprint(classifier, f"{prefix}.")["structure"] == structure:
            stored = f"{prefix}.{names[0]}"
            return f"stored is {stored!r} and here {names[0]!r}: give the module that holds this one as {prefix!r}"
    for prefix, network in networks.items():
        holds_all = prefix and all(name.startswith(f"{prefix}.") for name in names)
        if holds_all and fingerprint(network)["structure"] == structure:
            stored = names[0].removeprefix(f"{prefix}.")
            return f"stored is {stored!r} and here {names[0]!r}: give its module {prefix!r}"
    return None


def _before(name: str, networks: dict[str, nn.Module]) -> Iterator[str]:
    """What may stand before a network's name in that of a layer."""
    for inner in networks:
        prefix = name.removesuffix(f".{inner}") if inner else name
        if prefix and (prefix != name or not inner):
            yield prefix
