"""Tokens of a sequence that a classifier's logits depend on, found by changing the others."""

from collections.abc import Mapping
from contextlib import ExitStack
from copy import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gmm_torch.features.adapter import as_written, logits_of, of_this_thread
from gmm_torch.features.inputs import Inputs, changed, mask_of, run, sole
from gmm_torch.features.places import in_slice, module_at, one_row_each, order_among, parse, stretched
from gmm_torch.features.trace import N_TRACED, traced

MAX_READ = 4  # tokens beside others that a head reads: a class token, one for distillation, a few more
MAX_PREFIX = 16  # tokens before those of the image: registers
SAME = 1e-4  # of the largest logit, by which logits may differ that did not change


class Tokens(NamedTuple):
    """How the tokens of a sequence divide, in slices as in the name of a place."""

    read: str = ""  # by the head; "" where it reads all alike
    others: str = ""  # to pool beside them; "" for all
    in_words: str = ""  # what is added to the rule

    def split(self, layer: str) -> list[str]:
        """The names of the features of a layer."""
        return [layer + each for each in (self.read, self.others) if each] or [layer]

    def read_of(self, layer: str) -> str:
        """The name of what the head reads of a layer."""
        return layer + (self.read or self.others)


@torch.no_grad()
def find_tokens(classifier: nn.Module, x: Inputs, layer: str, *, first: str = "") -> Tokens:
    """What the head reads of a sequence: a few tokens at the beginning, the last one, or all.

    The tokens that do not matter are found by changing them and looking at the logits. The tokens that are read are
    features of their own, and the others are pooled. A head may read a class token and others, too; the tokens before
    those of an image are known by entering the first block alike whatever the image. What of these is not read, as
    registers are not, is left out. `first` names the first block, to tell registers from patches.
    """
    mask = mask_of(x)
    if mask is not None:  # the longest: of a single token nobody can tell which one is read
        order = mask.sum(1).argsort(descending=True, stable=True)
        x = changed(x, lambda value: value[order])
    x = traced(x)
    mask = mask_of(x)
    base = logits_of(run(classifier, x))
    lengths: list[int] = []

    def matters(begin: int, end: int | None) -> bool:
        """True if the logits depend on the tokens of a slice."""
        with ExitStack() as stack:
            stack.enter_context(as_written(classifier))
            _change(stack, classifier, layer, slice(begin, end), mask, lengths)
            found = logits_of(run(classifier, x))
        return bool(((found - base).abs().amax() > SAME * base.abs().amax()).item())

    if not matters(0, None):  # a head of zeros, say
        return Tokens()
    shortest = min(lengths)
    n = next((n for n in range(1, min(MAX_READ + 1, shortest)) if not matters(n, None)), 0)
    if n:
        before = max(n, _constant(classifier, x, first)) if first else n
        return Tokens(_read(n), f"[{before}:]", f"; the head reads {_first(n)}")
    if shortest > 1 and not matters(0, -1):
        return Tokens("[-1]", "[:-1]", "; the head reads the last token")
    n = next((n for n in range(min(MAX_PREFIX, shortest)) if matters(n, n + 1)), 0)
    if n:
        return Tokens("", f"[{n}:]", f"; the head passes over {_first(n)}")
    before = min(_constant(classifier, x, first), shortest) if first else 0
    n = next((n for n in range(min(MAX_READ, before)) if not matters(n, n + 1)), min(MAX_READ, before))
    return Tokens(_read(n), f"[{before}:]", f"; the head reads {_first(n)} and others") if n else Tokens()


def _read(n: int) -> str:
    """The first n tokens, as in the name of a place."""
    return "[0]" if n == 1 else f"[:{n}]"


def _first(n: int) -> str:
    return "the first token" if n == 1 else f"the first {n} tokens"


def _change(
    stack: ExitStack, classifier: nn.Module, layer: str, at: slice, mask: Tensor | None, lengths: list[int]
) -> None:
    """Change some tokens of a place, as long as the stack holds the hook; `lengths` hears how many there are."""
    module, place = module_at(classifier, layer), parse(layer)
    calls = 0

    def altered(value: Any) -> Any:
        tokens = one_row_each(value, N_TRACED)
        if tokens is None:
            return value
        kept = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
        kept = kept if mask is None else stretched(mask, tokens.shape[1])
        lengths.extend(kept.sum(1).tolist())
        chosen = in_slice(order_among(kept), kept.sum(1, keepdim=True), at)
        return _replaced(value, tokens, torch.where(chosen[..., None], 1 - 2 * tokens, tokens))

    def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return altered((args, kwargs)) if place.is_input and place.call in (0, calls) else None

    def after(module: nn.Module, args: Any, output: Any) -> Any:
        return None if place.is_input or place.call not in (0, calls) else altered(output)

    stack.callback(module.register_forward_pre_hook(of_this_thread(before), with_kwargs=True).remove)
    stack.callback(module.register_forward_hook(of_this_thread(after)).remove)


def _replaced(value: Any, old: Tensor, new: Tensor) -> Any:
    """A structure with one tensor in place of another."""
    if value is old:
        return new
    if isinstance(value, Mapping):
        result: Any = copy(value)
        for name, each in value.items():
            result[name] = _replaced(each, old, new)
        return result
    if isinstance(value, tuple | list):
        parts = [_replaced(each, old, new) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def _constant(classifier: nn.Module, x: Inputs, block: str) -> int:
    """How many tokens before the others enter a block alike for inputs that have nothing in common.

    Noise takes the place of the inputs, since images can share their corners. Words can't be told so: 0.
    """
    image = sole(x)
    if image is None or not image.is_floating_point():
        return 0
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(image.shape, generator=generator, device="cpu").to(image)
    entered: list[Tensor] = []

    def note(module: nn.Module, args: Any, kwargs: Any) -> None:
        tokens = one_row_each((args, kwargs), N_TRACED)
        if tokens is not None and tokens.dim() == 3:
            entered.append(tokens)

    with ExitStack() as stack:
        stack.enter_context(as_written(classifier))
        module = module_at(classifier, block)
        stack.callback(module.register_forward_pre_hook(of_this_thread(note), with_kwargs=True).remove)
        run(classifier, changed(x, lambda _: noise))
    if not entered:
        return 0
    tokens = entered[0].float()
    differ = (tokens - tokens[:1]).abs().amax((0, 2)) > SAME * tokens.abs().amax()
    return int(differ.int().argmax()) if bool(differ.any()) else 0
