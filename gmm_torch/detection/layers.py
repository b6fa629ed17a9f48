"""Which layers of a classifier to take features from, found by watching it run."""

import difflib
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

INPUT = ":input"
PENULTIMATE, STAGES, DEPTHS = "penultimate", "stages", "depths"
N_STAGES, N_DEEP_STAGES = 3, 2


class Trace(NamedTuple):
    """A module that finished running, and the shape of what it gave."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]


@torch.no_grad()
def trace(classifier: nn.Module, x: Tensor) -> list[Trace]:
    """The modules of a classifier in the order in which they finish on x."""
    ran: list[Trace] = []

    def note(name: str, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            ran.append(Trace(name, module, tuple(output.shape)))

    with ExitStack() as stack:
        for name, module in classifier.named_modules():
            if name:
                stack.callback(module.register_forward_hook(partial(note, name)).remove)
        classifier(x)
    return ran


def find_penultimate(classifier: nn.Module, x: Tensor) -> list[str]:
    """The input of the last linear layer to run on x.

    Raises:
        ValueError: no linear layer ran.
    """
    heads = [step.name for step in trace(classifier, x) if isinstance(step.module, nn.Linear)]
    if not heads:
        known = ", ".join(name for name, _ in classifier.named_modules() if name)
        raise ValueError(
            f"layers: the classifier has no linear layer, so no penultimate features; name some of: {known}"
        )
    return [heads[-1] + INPUT]


def find_stages(classifier: nn.Module, x: Tensor) -> list[str]:
    """The last module to finish at each of the last three resolutions; the penultimate layer without any maps.

    A stage of a convolutional network is what it computes between two changes of resolution. A map of one pixel is
    no stage: it is pooled already.
    """
    last: dict[tuple[int, ...], str] = {}
    for step in trace(classifier, x):
        size = step.shape[2:]
        if len(step.shape) >= 4 and any(side > 1 for side in size):
            last.pop(size, None)
            last[size] = step.name
    return list(last.values())[-N_STAGES:] or find_penultimate(classifier, x)


def find_depths(classifier: nn.Module, x: Tensor) -> list[str]:
    """The stages, and a third and two thirds of the way through each of the last two of them.

    What lies within a stage is named as the input of the block that comes next (see `stage_ends`). The blocks of a
    stage are the outermost modules with maps of its size: those within its last module, where there are several, or
    else those beside it.
    """
    ran = trace(classifier, x)
    found: list[str] = []
    ends = find_stages(classifier, x)
    for i, end in enumerate(ends):
        size = next((step.shape[2:] for step in reversed(ran) if step.name == end), None)
        if size is not None and i >= len(ends) - N_DEEP_STAGES:
            alike = [step.name for step in ran if len(step.shape) >= 4 and step.shape[2:] == size]
            within = _outermost([name for name in alike if name.startswith(f"{end}.")])
            blocks = within if len(within) > 1 else _outermost(alike)
            inner = {round(share * len(blocks)) for share in (1 / 3, 2 / 3)} - {0, len(blocks)}
            found += [blocks[j] + INPUT for j in sorted(inner)]
        found.append(end)
    return found


def _outermost(names: list[str]) -> list[str]:
    """Those that lie within no other of them; of one that holds all the others, those within it."""
    top = [name for name in dict.fromkeys(names) if not any(name.startswith(f"{other}.") for other in names)]
    rest = [name for name in names if name not in top]
    return _outermost(rest) if len(top) == 1 and rest else top


def stage_ends(layers: Sequence[str]) -> list[str]:
    """The layers named by their output, as stages are; all where there is none."""
    return [layer for layer in layers if not layer.endswith(INPUT)] or list(layers)


FINDERS = {PENULTIMATE: find_penultimate, STAGES: find_stages, DEPTHS: find_depths}


def check_names(classifier: nn.Module, layers: Sequence[str]) -> None:
    """Raise unless the classifier has every layer; the message lists those it has."""
    known = [name for name, _ in classifier.named_modules() if name]
    if isinstance(layers, str):
        raise ValueError(
            f"layers: expected a list of names, or one of {', '.join(FINDERS)}; got the string {layers!r}: "
            f"write [{layers!r}] for one layer"
        )
    if not layers:
        raise ValueError(f"layers: expected at least one name, or one of {', '.join(FINDERS)}; got none")
    for layer in layers:
        name = layer.removesuffix(INPUT)
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(f"layers: the classifier has no layer {name!r}{hint}; it has: {', '.join(known)}")
