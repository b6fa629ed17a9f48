"""Outputs of a classifier's modules as it runs, and a check that each row belongs to one input."""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gmm_torch.features.adapter import as_written, named_networks, of_this_thread
from gmm_torch.features.inputs import Inputs, changed, n_inputs, run
from gmm_torch.features.places import channels_axis, one_row_each, tensors

N_TRACED = 3  # inputs: a layer that folds others into the batch axis gives another number of rows
TURNED = (1, 2, 0)  # an order of them in which none stays where it was
FARTHER = 1e-3  # of its norm, by which a row may be farther from its own input's row than from another's
UNIT_SUM = 1e-2  # by which attention probabilities may miss a sum of one, in half precision


class Trace(NamedTuple):
    """A module that finished running, and what it gave: the first tensor of it that has a row an input."""

    path: str  # as in `named_modules`, without wrappers
    name: str  # the path, with "@k" for the k-th run of a module that runs several times in a pass
    call: int  # which of its runs it was, from 1
    module: nn.Module
    taken: int  # the number of the first tensor that it took
    shape: tuple[int, ...]
    size: tuple[int, ...]  # the shape without batch and channels; () for rows
    given: int  # which tensor it was: modules that hand on what another gave have the same number
    is_plain: bool  # whether it gave that tensor alone
    is_sequence: bool  # (N, T, C)
    is_map: bool  # a signal (N, C, L), or with positions along two axes or more, and no part of attention


def traced(x: Inputs) -> Inputs:
    """Three inputs of a batch, repeated where there are fewer; raises ValueError where there is none."""
    n = n_inputs(x)
    if not n:
        raise ValueError(
            "layers: expected at least one input to find them by; got an empty batch: give another, or names"
        )
    return changed(x, lambda value: value[torch.arange(N_TRACED, device=value.device) % n])


@torch.no_grad()
def trace(classifier: nn.Module, x: Inputs) -> list[Trace]:
    """The modules of a classifier that run on x, in the order in which they finish, with one row an input.

    The inputs run a second time in another order: what does not follow them (positions or time along the first axis,
    a batch that is sorted by something) is left out. So is a module that runs several times in a pass, unless it takes
    what it gave before, as a block that stands for several does. Logits that do not follow the inputs are an error.
    """
    x = traced(x)
    attention = tuple(f"{path}." for path, module in named_networks(classifier) if is_attention(module))
    ran: list[Trace] = []
    first: dict[tuple[str, int], Tensor] = {}  # what each run gave
    kept: list[Any] = []  # so that no other tensor gets the number of one that was taken
    times: Counter[str] = Counter()

    def note(path: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        times[path] += 1
        given = one_row_each(output, N_TRACED)
        if given is not None:
            first[path, times[path]] = given
            kept.append(one_row_each((args, kwargs), N_TRACED))
            is_map = not path.startswith(attention)
            ran.append(_as_trace(path, times[path], module, id(kept[-1]), given, isinstance(output, Tensor), is_map))

    logits = one_row_each(_watched(classifier, x, note), N_TRACED)
    follow: set[tuple[str, int]] = set()
    again: Counter[str] = Counter()

    def compare(path: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        again[path] += 1
        before, given = first.get((path, again[path])), one_row_each(output, N_TRACED)
        if before is not None and given is not None and rows_follow(before, given):
            follow.add((path, again[path]))

    order = torch.tensor(TURNED)
    moved = changed(x, lambda value: value[order.to(value.device)])
    turned = one_row_each(_watched(classifier, moved, compare), N_TRACED)
    if logits is not None and turned is not None and not rows_follow(logits, turned):
        raise ValueError(
            f"classifier: expected logits (N, C) in the order of the inputs; got {tuple(logits.shape)} in another one: "
            "wrap it so that row i is for input i"
        )
    chained = _chained(ran)
    return [
        each if times[each.path] == 1 else each._replace(name=f"{each.path}@{each.call}", is_map=False)
        for each in ran
        if (each.path, each.call) in follow and (times[each.path] == 1 or each.path in chained)
    ]


def rows_follow(before: Tensor, after: Tensor) -> bool:
    """Whether rows (3, ...) of inputs in the order `TURNED` are those of the inputs as they were, moved likewise."""
    if before.shape != after.shape:
        return False
    # What is not finite is no sign of another order: such inputs are counted elsewhere.
    old, new = (value.flatten(1).float().nan_to_num(0, 0, 0) for value in (before, after))
    distance = torch.linalg.vector_norm(new[:, None] - old, dim=-1)
    own = torch.stack([distance[i, j] for i, j in enumerate(TURNED)])  # a list of indices would be copied to the device
    return bool((own <= distance.amin(1) + FARTHER * torch.linalg.vector_norm(old, dim=-1).amax()).all())


def _chained(ran: list[Trace]) -> set[str]:
    """The modules that took, each time but the first, what they gave the time before."""
    runs: dict[str, list[Trace]] = {}
    for each in ran:
        runs.setdefault(each.path, []).append(each)
    several = {path: calls for path, calls in runs.items() if len(calls) > 1}
    return {path for path, calls in several.items() if all(b.taken == a.given for a, b in pairwise(calls))}


def is_attention(module: nn.Module) -> bool:
    """True if a module's class is named attention: the axes of maps within it are heads and tokens."""
    name = type(module).__name__.lower()
    return "attention" in name or "attn" in name


def _as_trace(
    path: str, call: int, module: nn.Module, taken: int, value: Tensor, is_plain: bool, may_be_map: bool
) -> Trace:
    axis, shape = channels_axis(module, value), tuple(value.shape)
    is_map = may_be_map and (len(shape) > 3 or (len(shape) == 3 and axis == 1)) and not _is_probability(value)
    is_sequence, size = len(shape) == 3 and axis == 2, shape[1:axis] + shape[axis + 1 :]
    return Trace(path, path, call, module, taken, shape, size, id(value), is_plain, is_sequence, is_map)


def _is_probability(value: Tensor) -> bool:
    """Whether a map holds numbers that sum to one along its last axis: to what each token attends."""
    return value.shape[-1] > 1 and bool((value >= 0).all() and ((value.float().sum(-1) - 1).abs() < UNIT_SUM).all())


def _watched(classifier: nn.Module, x: Inputs, note: Callable[..., None]) -> Any:
    """What the classifier makes of x; `note` hears of every module by name, what it takes and gives."""
    with ExitStack() as stack:
        stack.enter_context(as_written(classifier))
        seen: set[int] = set()
        for path, module in named_networks(classifier):
            if path and id(module) not in seen:
                seen.add(id(module))
                hook = of_this_thread(partial(note, path))
                stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        return run(classifier, x)


@torch.no_grad()
def last_shapes(classifier: nn.Module, x: Inputs, kind: type[nn.Module]) -> list[tuple[str, tuple[int, ...], int]]:
    """Name, shape and number of inputs of the last module of a kind to run on x, whatever it gives; at most one."""
    x = traced(x)
    found: list[tuple[str, tuple[int, ...], int]] = []

    def note(path: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if isinstance(module, kind):
            found.extend((path, tuple(value.shape), N_TRACED) for value in tensors(output)[:1])

    _watched(classifier, x, note)
    return found[-1:]
