"""Classifier outputs for a batch: logits and per-layer features for each view."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from gmm_torch.distributed import gather_objects
from gmm_torch.features.inputs import NO_BATCH, NO_LABELS, READ_AGAIN, InputFormat
from gmm_torch.mixture.sampling import row_keys, salted, shuffle


def log_odds(logits: Tensor, chosen: Tensor) -> Tensor:
    """log p_c / (1 - p_c), (N,) in nats, for the softmax p of logits (N, C), C >= 2, and classes c (N,).

    Without loss where p_c is nearly one; differentiable in the logits.
    """
    index = chosen[:, None]
    others = logits.scatter(1, index, -torch.inf)
    return logits.gather(1, index)[:, 0] - others.logsumexp(1)


THEN = ", then "  # between the words of several batches


class Features(NamedTuple):
    """Logits and features of V views of the same N inputs; the first view is the input itself.

    Attributes:
        logits: (N, V, C), at least float32.
        layers: by name, each (N, V_layer, D_layer), at least float32, of the first V_layer <= V views: of those that
            a score reads (see `Score.reads`).
        labels: (N,) int64, only where a score asks for labels.
        keys: (N, 2) int64, `InputKeys` of the inputs, where they are known: what is drawn at random is drawn by them.
        precision: in which the classifier computed them, in words; see `gmm_torch.features.modes`. Empty
            where nobody knows.
        position: (N,) int64, the inputs' positions among those that they were drawn from; None where they are all.
        format: what the inputs look like, where they are images.
    """

    logits: Tensor
    layers: dict[str, Tensor]
    labels: Tensor | None = None
    keys: Tensor | None = None
    precision: str = ""
    position: Tensor | None = None
    format: InputFormat = InputFormat()

    @property
    def own_logits(self) -> Tensor:
        """(N, C), of the inputs themselves."""
        return self.logits[:, 0]

    def log_odds(self) -> Tensor:
        """Log-odds in each view, (N, V), of the class predicted for the input itself; see the function `log_odds`."""
        predicted = self.own_logits.argmax(-1)
        return torch.stack([log_odds(logits, predicted) for logits in self.logits.unbind(1)], dim=1)

    def classes(self, labels: bool) -> Tensor:
        """(N,) int64: the labels, or the predictions.

        Raises:
            ValueError: labels are asked for, but there are none.
        """
        if not labels:
            return self.own_logits.argmax(-1)
        if self.labels is None:
            raise ValueError(NO_LABELS)
        return self.labels

    def shuffled(self) -> Tensor:
        """(N,) int64, the inputs in a random order that depends on what they are, and not on how they came.

        It follows from the keys of all the inputs, or from the logits where there are none.
        """
        return shuffle(salted(self.own_keys))

    def sorted_by_content(self) -> "Features":
        """The same in the order of `shuffled`; itself where it has that order."""
        keys, order = self.own_keys, self.shuffled()
        return self if torch.equal(keys[order], keys) else self.rows(order)

    @property
    def own_keys(self) -> Tensor:
        """(N, 2) int64: the keys, or those of the logits where there are none."""
        return row_keys(self.logits.flatten(1), 0) if self.keys is None else self.keys

    @property
    def row_bytes(self) -> int:
        """Bytes that the logits and features of one input take."""
        values = (self.logits, *self.layers.values())
        return sum(math.prod(value.shape[1:]) * value.element_size() for value in values)

    def chunks(self, nbytes: int) -> Iterator["Features"]:
        """Slices of about so many bytes each, so that what is computed from one is bounded; at least one slice."""
        step = max(1, nbytes // max(1, self.row_bytes))
        for start in range(0, max(1, len(self.logits)), step):
            yield self.rows(slice(start, start + step))

    @staticmethod
    def cat(parts: Sequence["Features"]) -> "Features":
        """Several batches, one after another."""
        return Features._make(map(joined, zip(*parts, strict=True)))

    def rows(self, index: Tensor | slice) -> "Features":
        """Some of the inputs."""
        return self.map(lambda value: value[index])

    def to(self, dtype: torch.dtype) -> "Features":
        """The same in another floating-point type."""
        return self.map(lambda value: value.to(dtype) if value.is_floating_point() else value)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Features":
        """Every tensor changed in the same way."""
        return Features._make(mapped(change, value) for value in self)


def each_once(found: Iterable[str]) -> str:
    """Words of several batches, each once; a batch without any counts for nothing."""
    return THEN.join(dict.fromkeys(each for words in found for each in words.split(THEN) if each))


def joined(parts: Sequence[Any]) -> Any:
    """A field of several batches: tensors, or those of each layer, one after another, None where one is missing."""
    if isinstance(parts[0], str):
        return each_once(parts)
    if isinstance(parts[0], InputFormat):
        return InputFormat._make(map(joined, zip(*parts, strict=True)))
    if isinstance(parts[0], dict):
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return None if any(part is None for part in parts) else torch.cat(tuple(parts))


def mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A field with its tensor, or those of each layer, changed."""
    if isinstance(value, dict):
        return {name: change(each) for name, each in value.items()}
    if isinstance(value, InputFormat):
        return value if value.extremes is None else value._replace(extremes=change(value.extremes))
    return change(value) if isinstance(value, Tensor) else value


def check_sizes(outputs: Features, widths: Mapping[str, int], n_views: int, n_classes: int) -> None:
    """Raise ValueError unless outputs have these layers (layer -> D), views and classes."""
    found = {layer: value.shape[-1] for layer, value in outputs.layers.items()}
    if (found, *outputs.logits.shape[1:]) != (dict(widths), n_views, n_classes):
        raise ValueError(
            f"outputs: expected layers {dict(widths)}, {n_views} views and {n_classes} classes; got {found}, "
            f"{outputs.logits.shape[1]} and {outputs.logits.shape[2]}: give what this detector's `features` returns"
        )


T = TypeVar("T")
CHUNK = 2**27  # bytes of outputs that are worked on at a time


class Chunks(Generic[T]):
    """Does some work on a stream of outputs: on as many at a time as a chunk holds, on no batch twice.

    What it gives for a stream that fits into one chunk does not depend on the stream's batches.
    """

    def __init__(self, work: Callable[[Features], T], nbytes: int = CHUNK) -> None:
        self.work = work
        self.nbytes = nbytes
        self._waiting: list[Features] = []
        self._n_waiting = 0
        self._done: list[T] = []

    def add(self, outputs: Features) -> None:
        """Take the next batch."""
        self._waiting.append(outputs)
        self._n_waiting += len(outputs.logits)
        if self._n_waiting * outputs.row_bytes >= self.nbytes:
            self._work()

    def end(self) -> list[T]:
        """Return the results, one a chunk; raises ValueError if there was no batch."""
        if self._waiting:
            self._work()
        if not self._done:
            raise ValueError(f"loader: {NO_BATCH}")
        return self._done

    def _work(self) -> None:
        outputs = Features.cat(self._waiting)
        self._waiting, self._n_waiting = [], 0
        self._done.append(self.work(outputs))


def in_chunks(compute: Callable[[Features], Tensor], outputs: Features) -> Tensor:
    """The rows (N, ...) that are computed of outputs, of a chunk at a time: what lies between is bounded."""
    parts, n = outputs.chunks(CHUNK), len(outputs.logits)
    rows = compute(next(parts))
    if len(rows) == n:
        return rows
    found, done = rows.new_empty(n, *rows.shape[1:]), len(rows)  # the whole is never there twice
    found[:done] = rows
    for part in parts:
        rows = compute(part)
        found[done : done + len(rows)] = rows
        done += len(rows)
    return found


class FiniteCheck:
    """Count of a stream's inputs whose logits or features are not finite.

    Inputs to learn from are refused all together if one is not finite. An input to be judged gets a verdict in any
    case: see `ValidRange`.
    """

    def __init__(self) -> None:
        self.n = 0
        self._bad: dict[str, Tensor] = {}

    def add(self, outputs: Features) -> None:
        """Look at the next batch; nothing waits for a device."""
        self.n += len(outputs.logits)
        named = {f"features of layer {layer!r}": value for layer, value in outputs.layers.items()}
        for name, value in (named | {"logits": outputs.logits}).items():
            bad = (~torch.isfinite(value).flatten(1).all(1)).sum()
            self._bad[name] = self._bad.get(name, 0) + bad

    def check(self, *, together: bool = False) -> None:
        """Raise ValueError where there were any, or no batch; of all processes, in each of them, if `together`."""
        own = (self.n, {name: int(bad) for name, bad in self._bad.items()})
        found = gather_objects(own) if together else [own]
        if not all(counts for _, counts in found):
            raise ValueError(
                f"loader: expected at least one batch{' in every process' * (len(found) > 1)}; got none: {READ_AGAIN}"
            )
        n = sum(n for n, _ in found)
        for name in self._bad:
            bad = sum(counts.get(name, 0) for _, counts in found)
            if bad:
                raise ValueError(
                    f"{name}: expected finite numbers; {bad} of {n} inputs give NaN or infinity: look for such inputs, "
                    "or for a classifier that overflows"
                )


def check_learnable(outputs: Features, *, labels: bool) -> None:
    """Raise unless outputs that are already there are finite, with labels where these are asked for."""
    check = FiniteCheck()
    check.add(outputs)
    check.check()
    if labels:
        outputs.classes(labels=True)
