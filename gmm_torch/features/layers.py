"""Layers of a classifier to take features from, found by watching it run.

What is looked for is what a network's blocks hand on to each other: the residual stream at the end of each stage, and
places a third and two thirds of the way through a stage. Rules are tried in turn: what the network declares (timm's
`feature_info`, transformers' hidden states), runs of like blocks, changes of resolution, layers of rows. Of sequences,
the tokens that the head reads are told from the others.
"""

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from torch import nn

from gmm_torch.features.adapter import named_networks, unwrapped
from gmm_torch.features.inputs import Inputs
from gmm_torch.features.places import INPUT, parse
from gmm_torch.features.tokens import Tokens, find_tokens
from gmm_torch.features.trace import Trace, last_shapes, trace

PENULTIMATE, STAGES, DEPTHS = "penultimate", "stages", "depths"
N_STAGES, N_DEEP_STAGES = 3, 2
# Classes that only hold others: what they hold are blocks beside those of the holder.
HOLDERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Found(NamedTuple):
    """Layers, and the rule that found them, in words."""

    layers: list[str]
    rule: str


class Stage(NamedTuple):
    """The layer at the end of a stage, and the blocks of the stage in order."""

    end: str
    blocks: list[str]


def find_penultimate(classifier: nn.Module, x: Inputs) -> Found:
    """The input of the last linear layer to run on x; of a sequence the tokens that the logits depend on.

    Where no linear layer runs it is the input of the last convolution of kernel size 1, which is one at every place.
    """
    return _penultimate(classifier, x, trace(classifier, x))


def _penultimate(classifier: nn.Module, x: Inputs, ran: list[Trace]) -> Found:
    heads = [step for step in ran if isinstance(step.module, nn.Linear)]
    convolutions = [step for step in ran if _is_pointwise(step.module)]
    if isinstance(unwrapped(classifier), nn.Linear):
        raise ValueError(
            "layers: the classifier is one linear layer and has no layer with a name: give nn.Sequential(classifier), "
            "whose '0:input' are its inputs"
        )
    if convolutions and not heads:
        return Found([convolutions[-1].name + INPUT], "the last convolution of kernel size 1")
    if not heads:
        folded, names = last_shapes(classifier, x, nn.Linear), _names(classifier)
        raise ValueError(
            "layers: the classifier has no linear layer that gives a row an input, so no penultimate features"
            + "".join(f" ({name!r} gives {shape} for {n} inputs)" for name, shape, n in folded)
            + (f"; name some of: {', '.join(names)}" if names else ": give the whole network, from inputs to logits")
        )
    name, rule = heads[-1].name + INPUT, "the last linear layer"
    if len(heads[-1].shape) != 3:
        return Found([name], rule)
    tokens = find_tokens(classifier, x, name)
    return Found([tokens.read_of(name)], rule + tokens.in_words)


def _is_pointwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and set(module.kernel_size) == {1}


def _found(classifier: nn.Module, x: Inputs, *, places: bool) -> Found:
    """The end of each of the last three stages; the penultimate layer where there are none.

    A stage is what a network computes between two changes of resolution; of a network of one resolution, a third of
    its blocks. A map of one pixel is no stage: it is pooled already. With places, a third and two thirds of the way
    through each of the last two stages come with them, named as the input of the block that comes next.
    """
    ran = trace(classifier, x)
    rules = (
        ("declared by the network as its features", _by_declaration(classifier, ran)),
        ("declared by the network as its hidden states", _by_hidden_states(classifier, ran)),
        ("the ends of runs of like blocks", _by_blocks(classifier, ran)),
        ("the last at each resolution", _by_resolution(ran)),
        ("what its layers of rows hand on", _by_rows(classifier, ran)),
    )
    rule, stages = next((found for found in rules if found[1]), ("", []))
    if not stages:
        return _penultimate(classifier, x, ran)
    layers = list(_layers(stages[-N_STAGES:], places))
    sequences = {step.name: step.shape[1] for step in ran if step.is_sequence}
    n_tokens = sequences.get(stages[-1].end)
    tokens = find_tokens(classifier, x, stages[-1].end, first=stages[0].blocks[0]) if n_tokens else Tokens()
    names: list[str] = []
    for layer in layers:  # as the tokens that are read and the others, where it has as many as the last stage
        names += tokens.split(layer) if sequences.get(layer.removesuffix(INPUT)) == n_tokens else [layer]
    repeated = " (a block runs several times)" if any(parse(layer).call for layer in layers) else ""
    return Found(names, rule + repeated + tokens.in_words)


def _names(classifier: nn.Module) -> list[str]:
    return list(dict.fromkeys(name for name, _ in named_networks(classifier) if name))


def _layers(stages: list[Stage], places: bool) -> Iterator[str]:
    for i, (end, blocks) in enumerate(stages):
        if places and i >= len(stages) - N_DEEP_STAGES:
            inner = {round(share * len(blocks)) for share in (1 / 3, 2 / 3)} - {0, len(blocks)}
            yield from (blocks[j] + INPUT for j in sorted(inner))
        yield end


def _by_declaration(classifier: nn.Module, ran: list[Trace]) -> list[Stage]:
    """timm's `feature_info`: a list of mappings whose "module" is a name within the network that has it."""
    for prefix, module in named_networks(classifier):
        declared = getattr(module, "feature_info", None)
        if isinstance(declared, list) and all(isinstance(each, Mapping) and "module" in each for each in declared):
            names = {f"{prefix}.{each['module']}" if prefix else str(each["module"]) for each in declared}
            return _stages([step for step in ran if step.path in names], ran, named=True)
    return []


def _by_hidden_states(classifier: nn.Module, ran: list[Trace]) -> list[Stage]:
    """transformers' `_can_record_outputs`: of which classes the modules are that give the hidden states."""
    declared: set[type[nn.Module]] = set()
    for _, module in named_networks(classifier):
        recorded = getattr(module, "_can_record_outputs", None)
        states = recorded.get("hidden_states", ()) if isinstance(recorded, Mapping) else ()
        for each in states if isinstance(states, tuple | list) else [states]:
            kind = getattr(each, "target_class", each)
            declared |= {kind} if isinstance(kind, type) else set()
    return _stages([step for step in ran if type(step.module) in declared and len(step.shape) > 2], ran)


def _by_blocks(classifier: nn.Module, ran: list[Trace]) -> list[Stage]:
    """The ends of outermost runs of like blocks: of several modules of one class beside each other."""
    blocks = _like_blocks(unwrapped(classifier), "", Counter(step.path for step in ran if len(step.shape) > 2))
    return _stages([step for step in ran if step.path in blocks], ran)


def _like_blocks(module: nn.Module, prefix: str, ran: Mapping[str, int]) -> set[str]:
    """Paths of the outermost modules that run more than once, or have another of their class beside them."""
    units = list(_units(module, prefix))
    classes: Counter[type[nn.Module]] = Counter()
    for name, unit in units:
        classes[type(unit)] += ran.get(name, 0)
    found: set[str] = set()
    for name, unit in units:
        if name in ran and classes[type(unit)] > 1:
            found.add(name)
        else:
            found |= _like_blocks(unit, f"{name}.", ran)
    return found


def _units(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Children that have children and a weight matrix, those of holders taken for the module's own."""
    for name, wrapped in module.named_children():
        child = unwrapped(wrapped)
        if type(child) in HOLDERS:
            yield from _units(child, f"{prefix}{name}.")
        elif isinstance(child, (nn.modules.conv._ConvNd, nn.Linear)):
            continue  # with a part of its own, for its padding say; still no block
        elif next(child.children(), None) is not None and any(each.dim() > 1 for each in child.parameters()):
            yield prefix + name, child


def _stages(blocks: list[Trace], ran: list[Trace], *, named: bool = False) -> list[Stage]:
    """Stages of blocks in order: the blocks of one resolution; a third of the blocks where that never changes.

    A stage is called by its last block where that was `named`, or else by the outermost module that ends there.
    """
    groups = _by_size(blocks)
    if len(groups) == 1 and len(groups[0]) >= N_STAGES:
        names = [step.name for step in groups[0]]
        cuts = [round(len(names) * i / N_STAGES) for i in range(N_STAGES + 1)]
        return [Stage(names[b - 1], names[a:b]) for a, b in pairwise(cuts)]
    stages = []
    for group in groups:
        others = [block.path for block in blocks if block not in group]
        end = group[-1].name if named else _outermost_alike(group[-1], others, ran)
        stages.append(Stage(end, _inner(group, ran)))
    return stages


def _outermost_alike(block: Trace, others: list[str], ran: list[Trace]) -> str:
    """The outermost module around a block that hands on just what it gave, and holds no block of another stage."""
    alike = [
        step
        for step in ran
        if step is block or (step.given == block.given and step.is_plain and block.path.startswith(f"{step.path}."))
    ]
    return [step.name for step in alike if not any(other.startswith(f"{step.path}.") for other in others)][-1]


def _inner(group: list[Trace], ran: list[Trace]) -> list[str]:
    """The blocks of a stage; where its last is a stage by itself, the like blocks in that.

    They are such only if they are as wide as the stage, which hands on what the last of them gave: parts of a block,
    as a convolution with its norm is, are not.
    """
    last = group[-1]
    units = list(_units(last.module, f"{last.path}."))
    classes = Counter(type(unit) for _, unit in units)
    names = {name for name, unit in units if classes[type(unit)] > 1}
    inner = [step for step in ran if step.path in names]
    alike = len(inner) > 1 and inner[-1].given == last.given and all(step.shape == last.shape for step in inner)
    is_stage = type(last.module) in HOLDERS or len(group) == 1
    return [step.name for step in (inner if is_stage and alike else group)]


def _by_resolution(ran: list[Trace]) -> list[Stage]:
    """The last module to finish at each resolution of maps, with the outermost modules of it as blocks.

    The blocks of a stage are those within its last module, where there are several, or else those beside it.
    """
    stages = []
    for steps in _by_size([step for step in ran if step.is_map]):
        if all(next(step.module.parameters(recurse=False), None) is None for step in steps):
            continue  # a stage that was pooled, and nothing else, is no other stage
        names = [step.name for step in steps]
        within = _outermost([name for name in names if name.startswith(f"{names[-1]}.")])
        stages.append(Stage(names[-1], within if len(within) > 1 else _outermost(names)))
    return stages


def _by_size(steps: list[Trace]) -> list[list[Trace]]:
    """Steps of more than one position by resolution, in the order of the last of each."""
    groups: dict[tuple[int, ...], list[Trace]] = {}
    for step in steps:
        if any(side > 1 for side in step.size):
            groups.setdefault(step.size, []).append(step)
    return sorted(groups.values(), key=lambda group: steps.index(group[-1]))


def _by_rows(classifier: nn.Module, ran: list[Trace]) -> list[Stage]:
    """Of a network of rows alone, ends of like blocks, or else what its linear layers take from each other."""
    if any(len(step.shape) > 2 for step in ran):
        return []
    blocks = _like_blocks(unwrapped(classifier), "", Counter(step.path for step in ran))
    names = [step.name for step in ran if step.path in blocks]
    if len(names) < 2:
        names = [step.name + INPUT for step in ran if isinstance(step.module, nn.Linear)][1:]
    cuts = {round(len(names) * i / N_STAGES) for i in range(1, N_STAGES + 1)} - {0}
    return [Stage(names[i - 1], [names[i - 1]]) for i in sorted(cuts)]


def _outermost(names: list[str]) -> list[str]:
    """Those that lie within no other of them; of one that holds all the others, those within it."""
    top = [name for name in dict.fromkeys(names) if not any(name.startswith(f"{other}.") for other in names)]
    rest = [name for name in names if name not in top]
    return _outermost(rest) if len(top) == 1 and rest else top


def stage_ends(layers: Sequence[str]) -> list[str]:
    """The layers named by their output, as stages are; all where there is none."""
    return [layer for layer in layers if not parse(layer).is_input] or list(layers)


FINDERS: Mapping[str, Callable[[nn.Module, Inputs], Found]] = {
    PENULTIMATE: find_penultimate,
    STAGES: partial(_found, places=False),
    DEPTHS: partial(_found, places=True),
}


def check_names(classifier: nn.Module, layers: Sequence[str]) -> None:
    """Raise unless the classifier has every layer; the message lists those it has."""
    known = _names(classifier)
    if isinstance(layers, str):
        raise ValueError(
            f"layers: expected a list of names, or one of {', '.join(FINDERS)}; got the string {layers!r}: "
            f"write [{layers!r}] for one layer"
        )
    if not layers:
        raise ValueError(f"layers: expected at least one name, or one of {', '.join(FINDERS)}; got none")
    for layer in layers:
        if not isinstance(layer, str):
            raise TypeError(f"layers: expected names; got {layer!r} of {type(layer).__name__}: give its name")
        name = parse(layer).module
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(f"layers: the classifier has no layer {name!r}{hint}; it has: {', '.join(known)}")
