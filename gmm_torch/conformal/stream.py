"""What classes that watch a stream share: a state that JSON can hold, and the inputs whose labels are still to come."""

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor

from gmm_torch.checks import check_count


class Stream:
    """A watcher of a stream: `update` takes a piece of it, in its order, and gives a small record.

    In whatever pieces a stream arrives, its watcher ends in the same state. `state_dict` is made of numbers, strings,
    lists and dicts, so it goes into a JSON file as it is; what was constructed otherwise refuses it.
    """

    settings: ClassVar[tuple[str, ...]]  # attributes that a state must agree with
    state: ClassVar[tuple[str, ...]]  # attributes that change: numbers, lists, dicts, tensors, other watchers

    def state_dict(self) -> dict[str, Any]:
        """The settings and the state, copied."""
        return {name: _plain(getattr(self, name)) for name in (*self.settings, *self.state)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: the state of another class, or of other settings; nothing has changed then.
        """
        self.check_state(state)
        for name in self.state:
            now, value = getattr(self, name), copy.deepcopy(state[name])
            if isinstance(now, Stream):
                now.load_state_dict(value)
            else:
                setattr(self, name, torch.tensor(value, dtype=now.dtype) if isinstance(now, Tensor) else value)

    def check_state(self, state: dict[str, Any]) -> None:
        """Raise unless a state is one of such a watcher."""
        expected = {*self.settings, *self.state}
        if set(state) != expected:
            raise ValueError(f"state: expected that of a {type(self).__name__}, with {sorted(expected)}; got another")
        for name in self.settings:
            if _plain(getattr(self, name)) != state[name]:
                raise ValueError(
                    f"state: expected one with the same {name} as this {type(self).__name__}; got another: construct "
                    "it as the one was constructed that the state is from"
                )
        for name in self.state:
            now = getattr(self, name)
            if isinstance(now, Stream):
                now.check_state(state[name])


def _plain(value: Any) -> Any:
    if isinstance(value, Stream):
        return value.state_dict()
    return value.tolist() if isinstance(value, Tensor) else copy.deepcopy(value)


class Judged(Stream):
    """Inputs that were judged and whose labels may arrive later, or never; the latest `memory` of them.

    Args:
        memory: how many inputs to wait for; a label of an earlier one comes too late.
    """

    settings = ("memory",)
    state = ("n_seen", "waiting")

    def __init__(self, memory: int = 100_000) -> None:
        check_count("memory", memory)
        self.memory = memory
        self.n_seen = 0
        self.waiting: dict[str, Any] = {}  # by index, as JSON has its keys

    def add(self, value: Any) -> int:
        """Remember what was said of the next input; gives its index."""
        index = self.n_seen
        self.waiting[str(index)] = value
        self.waiting.pop(str(index - self.memory), None)
        self.n_seen += 1
        return index

    def take_last(self) -> Any:
        """What was said of the latest input, of which no label is awaited then."""
        return self.waiting.pop(str(self.n_seen - 1))

    def take(self, indices: Tensor, labels: Tensor, *, numbers: bool = False) -> list[tuple[Any, Any]]:
        """What was said of inputs (k,), each with its label (k,), bool or, with `numbers`, floating.

        Raises:
            ValueError: shapes; inputs that were never judged, that have a label, or that were judged too long ago. No
                label has been taken then.
        """
        wanted = labels.is_floating_point() if numbers else labels.dtype == torch.bool
        if indices.dim() != 1 or indices.shape != labels.shape or indices.is_floating_point() or not wanted:
            raise ValueError(
                f"labels: expected one {'number' if numbers else 'bool'} per index, shape (k,); got "
                f"{tuple(indices.shape)} indices and {tuple(labels.shape)} of {labels.dtype}"
            )
        given: list[int] = indices.tolist()
        for index in given:
            if not 0 <= index < self.n_seen:
                raise ValueError(
                    f"labels: expected indices of inputs that were judged, 0 to {self.n_seen - 1}; got {index}: give "
                    "the place of the input in the stream, from 0"
                )
        missing = [index for index in given if str(index) not in self.waiting]
        if missing or len(set(given)) < len(given):
            raise ValueError(
                f"labels: expected one for each of the latest {self.memory} inputs at most; got another one for input "
                f"{missing[0] if missing else max(given, key=given.count)}, which has one or came too long ago: give "
                "each label once, or set a larger memory"
            )
        return [(self.waiting.pop(str(index)), label) for index, label in zip(given, labels.tolist(), strict=True)]
