"""A random sample of a stream of inputs, of bounded size, that depends on what the inputs are alone."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gmm_torch.distributed import gather_objects, gather_rows, is_distributed
from gmm_torch.features.features import Features, each_once, joined
from gmm_torch.features.inputs import NO_BATCH
from gmm_torch.mixture.sampling import mixed

# What a fit keeps of its inputs, at most: bytes of logits and features, and inputs. Fitting makes copies of a part of
# them. `docs/size.md` says what a sample costs.
MAX_BYTES, MAX_INPUTS = 2**29, 2**16
SALT = 0x53414D504C45  # other keys than those of any other draw
SLACK = 1 / 4  # of the bound: how many more are gathered before they are cut down to it


class Drawn(NamedTuple):
    """What was kept of a stream of `n_given` inputs, in the order of `Features.shuffled`; `position` says which."""

    outputs: Features
    n_given: int


class Sample:
    """Features of a uniform random sample of a stream's inputs; of all of them where they fit.

    Kept are the distinct inputs with the smallest keys, which are hashes of what the inputs are: the order of the
    stream, its batches and the number of processes that read it don't matter. Equal inputs are kept once, with how
    often they came, and share what room is left in proportion to that.
    """

    def __init__(self, max_bytes: int | None = None, max_inputs: int | None = None) -> None:
        self.max_bytes = MAX_BYTES if max_bytes is None else max_bytes
        self.max_inputs = MAX_INPUTS if max_inputs is None else max_inputs
        self.n_given = 0
        self._parts: list[Features] = []
        self._facts: list[Tensor] = []  # of each part: key, position in the stream, how often it came; (n, 3) int64
        self._n_held = 0
        self._precisions: list[str] = []
        self._largest: int | None = None  # key that may still be kept, once others were not

    @property
    def capacity(self) -> int:
        """Largest number of inputs kept; known after the first batch."""
        return max(1, min(self.max_inputs, self.max_bytes // max(1, self._parts[0].row_bytes)))

    def add(self, outputs: Features) -> None:
        """Take the next batch of the stream."""
        key = mixed(outputs.own_keys[:, 1] ^ SALT)
        position = torch.arange(self.n_given, self.n_given + len(key), device=key.device)
        facts = torch.stack([key, position, torch.ones_like(key)], dim=1)
        self.n_given += len(key)
        if outputs.precision not in self._precisions:
            self._precisions.append(outputs.precision)
        if self._largest is not None:
            near = key <= self._largest
            outputs, facts = outputs.rows(near), facts[near]
        if len(facts) or not self._parts:
            self._parts.append(outputs._replace(layers=dict(outputs.layers)))
            self._facts.append(facts)
            self._n_held += len(facts)
        if self._n_held > (1 + SLACK) * self.capacity:
            self._keep(smallest(torch.cat(self._facts), self.capacity))

    @torch.no_grad()
    def draw(self, *, together: bool = False) -> Drawn:
        """What is kept, which is forgotten here; that of all processes, in each of them, if `together`."""
        together = together and is_distributed()
        if not (together or self._parts):
            raise ValueError(f"loader: {NO_BATCH}")
        given = gather_objects((self.n_given, self._precisions)) if together else [(self.n_given, self._precisions)]
        n_given, capacity = sum(n for n, _ in given), self.capacity
        with torch.inference_mode(False):
            if self.n_given > capacity:
                self._keep(smallest(torch.cat(self._facts), capacity))
            if together:
                rank = torch.distributed.get_rank()
                before = sum(n for n, _ in given[:rank])
                self._facts = [facts + facts.new_tensor([0, before, 0]) for facts in self._facts]
            if together and n_given > capacity:
                self._keep(smallest(gather_rows(torch.cat(self._facts)), capacity))
            outputs = self._joined(together, capacity if n_given > capacity else n_given)
        return Drawn(outputs._replace(precision=each_once(each for _, found in given for each in found)), n_given)

    def _keep(self, facts: Tensor) -> None:
        """Keep the inputs with the positions in facts (m, 3), as often as is said there, and no others."""
        facts = facts[facts[:, 1].argsort()]
        self._largest = int(facts[:, 0].max()) if len(facts) >= self.capacity else None
        positions = facts[:, 1].contiguous()
        for i, own in enumerate(self._facts):  # one by one: the rest is never there twice
            at = torch.searchsorted(positions, own[:, 1].contiguous()).clamp_max(len(positions) - 1)
            stays = positions[at] == own[:, 1]
            self._parts[i], self._facts[i] = self._parts[i].rows(stays), facts[at[stays]]
        left = [i for i, own in enumerate(self._facts) if len(own)] or [0]
        self._parts, self._facts = [self._parts[i] for i in left], [self._facts[i] for i in left]
        self._n_held = sum(map(len, self._facts))

    def _joined(self, together: bool, size: int) -> Features:
        """All that is kept, of all processes if `together`, as at most `size` rows; field by field, to hold it once."""

        def taken(values: Iterable[Tensor | None]) -> Any:
            found = joined(list(values))
            return gather_rows(found) if together and found is not None else found

        parts, self._parts = self._parts, []
        facts, logits = taken(self._facts), taken(part.logits for part in parts)
        labels, keys = taken(part.labels for part in parts), taken(part.keys for part in parts)
        whole = Features(logits, {}, labels, keys, position=facts[:, 1])
        copies = facts[:, 2] - 1
        times = 1 + copies * (size - len(facts)) // copies.sum().clamp_min(1)
        chosen = torch.arange(len(facts), device=facts.device).repeat_interleave(times)
        chosen = chosen[whole.rows(chosen).shuffled()]
        for name in list(parts[0].layers):
            whole.layers[name] = taken(part.layers.pop(name) for part in parts)[chosen]
        return whole._replace(layers={}).rows(chosen)._replace(layers=whole.layers)


def smallest(facts: Tensor, n: int) -> Tensor:
    """Of inputs with key, position and number of times (m, 3), the n distinct ones of the smallest keys, first come."""
    facts = facts[facts[:, 1].argsort()]
    facts = facts[facts[:, 0].argsort(stable=True)]
    _, group, size = facts[:, 0].unique_consecutive(return_inverse=True, return_counts=True)
    first = size.cumsum(0) - size
    times = torch.zeros_like(size).index_add_(0, group, facts[:, 2])
    return torch.stack([facts[first, 0], facts[first, 1], times], dim=1)[:n]
