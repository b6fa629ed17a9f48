"""Which layers of a classifier to take features from, found by watching it run.

What is looked for is what a network's blocks hand on to each other: the residual stream at the end of each stage, and
places a third and two thirds of the way through a stage. Three rules are tried in turn: what the network declares
(timm's `feature_info`), runs of like blocks, changes of resolution.
"""

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gmm_torch.detection.pooling import channels_axis

INPUT = ":input"
PENULTIMATE, STAGES, DEPTHS = "penultimate", "stages", "depths"
N_STAGES, N_DEEP_STAGES = 3, 2
N_TRACED = 3  # inputs: a layer that folds others into the batch axis gives another number of rows
# Classes that only hold others: what they hold are blocks beside those of the holder.
HOLDERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Trace(NamedTuple):
    """A module that finished running, and what it gave: the first tensor of it, where there are several.

    Attributes:
        name, module: as in `named_modules`.
        shape: of what it gave.
        size: that without batch and channels; () for rows.
        given: which tensor it was: modules that hand on what another gave have the same number.
        is_plain: whether it gave that tensor alone.
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    size: tuple[int, ...]
    given: int
    is_plain: bool


class Found(NamedTuple):
    """Layers, and the rule that found them, in words."""

    layers: list[str]
    rule: str


def first_tensor(value: Any) -> Tensor | None:
    """The first tensor of what a module gives: itself, or within tuples, lists, mappings."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return next((found for found in map(first_tensor, value) if found is not None), None)
    return None


@torch.no_grad()
def trace(classifier: nn.Module, x: Tensor) -> list[Trace]:
    """The modules of a classifier that run once on x, in the order in which they finish, with one row an input.

    A module that runs several times in a pass stands for no place in it.
    """
    x = x[torch.arange(N_TRACED, device=x.device) % len(x)]
    ran: list[Trace] = []
    kept: list[Tensor] = []  # so that no other tensor gets the same number
    times: Counter[str] = Counter()

    def note(name: str, module: nn.Module, args: Any, output: Any) -> None:
        times[name] += 1
        value = first_tensor(output)
        if value is None or not value.is_floating_point() or value.dim() < 2 or len(value) != N_TRACED:
            return
        kept.append(value)
        size = list(value.shape[1:])
        del size[channels_axis(module, value) - 1]
        step = Trace(name, module, tuple(value.shape), tuple(size), id(value), isinstance(output, Tensor))
        ran.append(step)

    with ExitStack() as stack:
        for name, module in classifier.named_modules():
            if name:
                stack.callback(module.register_forward_hook(partial(note, name)).remove)
        classifier(x)
    return [step for step in ran if times[step.name] == 1]


def find_penultimate(classifier: nn.Module, x: Tensor) -> Found:
    """The input of the last linear layer to run on x.

    Raises:
        ValueError: no linear layer ran.
    """
    return _penultimate(classifier, trace(classifier, x))


def _penultimate(classifier: nn.Module, ran: list[Trace]) -> Found:
    heads = [step.name for step in ran if isinstance(step.module, nn.Linear)]
    if not heads:
        known = ", ".join(name for name, _ in classifier.named_modules() if name)
        raise ValueError(
            f"layers: the classifier has no linear layer that gives a row an input, so no penultimate features; name "
            f"some of: {known}"
        )
    return Found([heads[-1] + INPUT], "the last linear layer")


def find_stages(classifier: nn.Module, x: Tensor) -> Found:
    """The end of each of the last three stages; the penultimate layer where there are none.

    A stage is what a network computes between two changes of resolution; of a network of one resolution, a third of
    its blocks. A map of one pixel is no stage: it is pooled already.
    """
    return _found(classifier, x, places=False)


def find_depths(classifier: nn.Module, x: Tensor) -> Found:
    """The stages, and a third and two thirds of the way through each of the last two of them.

    What lies within a stage is named as the input of the block that comes next (see `stage_ends`).
    """
    return _found(classifier, x, places=True)


def _found(classifier: nn.Module, x: Tensor, *, places: bool) -> Found:
    ran = trace(classifier, x)
    for rule, stages in (
        ("declared by the network as its features", _by_declaration(classifier, ran)),
        ("the ends of runs of like blocks", _by_blocks(classifier, ran)),
        ("the last at each resolution", _by_resolution(ran)),
    ):
        if stages:
            return Found(list(_layers(stages[-N_STAGES:], places)), rule)
    return _penultimate(classifier, ran)


class Stage(NamedTuple):
    """The layer at the end of a stage, and the blocks of the stage in order."""

    end: str
    blocks: list[str]


def _layers(stages: list[Stage], places: bool) -> Iterator[str]:
    for i, (end, blocks) in enumerate(stages):
        if places and i >= len(stages) - N_DEEP_STAGES:
            inner = {round(share * len(blocks)) for share in (1 / 3, 2 / 3)} - {0, len(blocks)}
            yield from (blocks[j] + INPUT for j in sorted(inner))
        yield end


def _by_declaration(classifier: nn.Module, ran: list[Trace]) -> list[Stage]:
    """timm's `feature_info`: a list of mappings whose "module" is a name within the network that has it."""
    for prefix, module in classifier.named_modules():
        declared = getattr(module, "feature_info", None)
        if isinstance(declared, list) and all(isinstance(each, Mapping) and "module" in each for each in declared):
            names = {f"{prefix}.{each['module']}" if prefix else str(each["module"]) for each in declared}
            return _stages([step for step in ran if step.name in names], ran, named=True)
    return []


def _by_blocks(classifier: nn.Module, ran: list[Trace]) -> list[Stage]:
    """The ends of outermost runs of like blocks: of several modules of one class beside each other."""
    blocks = _like_blocks(classifier, "", {step.name: step for step in ran if len(step.shape) > 2})
    return _stages([step for step in ran if step.name in blocks], ran)


def _like_blocks(module: nn.Module, prefix: str, ran: Mapping[str, Trace]) -> set[str]:
    """Names of the outermost modules that have another of their class beside them, within a module."""
    units = list(_units(module, prefix))
    classes = Counter(type(unit) for name, unit in units if name in ran)
    found: set[str] = set()
    for name, unit in units:
        if name in ran and classes[type(unit)] > 1:
            found.add(name)
        else:
            found |= _like_blocks(unit, f"{name}.", ran)
    return found


def _units(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Children that have children and a weight matrix, those of holders taken for the module's own."""
    for name, child in module.named_children():
        if type(child) in HOLDERS:
            yield from _units(child, f"{prefix}{name}.")
        elif next(child.children(), None) is not None and any(each.dim() > 1 for each in child.parameters()):
            yield prefix + name, child


def _stages(blocks: list[Trace], ran: list[Trace], *, named: bool = False) -> list[Stage]:
    """Stages of blocks in order: the blocks of one resolution; a third of the blocks where that never changes.

    A stage is called by its last block where that was `named`, or else by the outermost module that ends there.
    """
    groups: dict[tuple[int, ...], list[Trace]] = {}
    for block in blocks:
        if any(side > 1 for side in block.size):
            groups.setdefault(block.size, []).append(block)
    if len(groups) == 1:
        ((_, group),) = groups.items()
        if len(group) >= N_STAGES:
            cuts = [round(len(group) * i / N_STAGES) for i in range(N_STAGES + 1)]
            parts = [[step.name for step in group[a:b]] for a, b in pairwise(cuts)]
            return [Stage(names[-1], names) for names in parts]
    stages = []
    for group in sorted(groups.values(), key=lambda group: blocks.index(group[-1])):
        others = [block.name for block in blocks if block not in group]
        end = group[-1].name if named else _outermost_alike(group[-1], others, ran)
        stages.append(Stage(end, _inner(group, ran)))
    return stages


def _outermost_alike(block: Trace, others: list[str], ran: list[Trace]) -> str:
    """The name of the outermost module that hands on just what a block gave, and holds no block of another stage."""
    alike = [step.name for step in ran if step.given == block.given and (step.is_plain or step is block)]
    return [name for name in alike if not any(other.startswith(f"{name}.") for other in others)][-1]


def _inner(group: list[Trace], ran: list[Trace]) -> list[str]:
    """The blocks of a stage; where its last is a stage by itself, the like blocks in that.

    They are such only if they are as wide as the stage, which hands on what the last of them gave: parts of a block,
    as a convolution with its norm is, are not.
    """
    last = group[-1]
    units = list(_units(last.module, f"{last.name}."))
    classes = Counter(type(unit) for _, unit in units)
    names = {name for name, unit in units if classes[type(unit)] > 1}
    inner = [step for step in ran if step.name in names]
    alike = len(inner) > 1 and inner[-1].given == last.given and all(step.shape == last.shape for step in inner)
    is_stage = type(last.module) in HOLDERS or len(group) == 1
    return [step.name for step in (inner if is_stage and alike else group)]


def _by_resolution(ran: list[Trace]) -> list[Stage]:
    """The last module to finish at each resolution of maps, with the outermost modules of it as blocks.

    The blocks of a stage are those within its last module, where there are several, or else those beside it.
    """
    last: dict[tuple[int, ...], str] = {}
    alike: dict[tuple[int, ...], list[str]] = {}
    for step in ran:
        if len(step.shape) >= 4 and any(side > 1 for side in step.size):
            last.pop(step.size, None)
            last[step.size] = step.name
            alike.setdefault(step.size, []).append(step.name)
    stages = []
    for size, end in last.items():
        within = _outermost([name for name in alike[size] if name.startswith(f"{end}.")])
        stages.append(Stage(end, within if len(within) > 1 else _outermost(alike[size])))
    return stages


def _outermost(names: list[str]) -> list[str]:
    """Those that lie within no other of them; of one that holds all the others, those within it."""
    top = [name for name in dict.fromkeys(names) if not any(name.startswith(f"{other}.") for other in names)]
    rest = [name for name in names if name not in top]
    return _outermost(rest) if len(top) == 1 and rest else top


def stage_ends(layers: Sequence[str]) -> list[str]:
    """The layers named by their output, as stages are; all where there is none."""
    return [layer for layer in layers if not layer.endswith(INPUT)] or list(layers)


FINDERS: Mapping[str, Callable[[nn.Module, Tensor], Found]] = {
    PENULTIMATE: find_penultimate,
    STAGES: find_stages,
    DEPTHS: find_depths,
}


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
