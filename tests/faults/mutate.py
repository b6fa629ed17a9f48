"""Seeded damage to files: bytes changed at random, and JSON values replaced by hostile ones."""

import copy
import json
import random
from collections.abc import Callable
from typing import Any

NUMBERS = (0, 1, 127, 128, 255, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
DEEP = 5000  # levels, several times Python's limit


def flip(data: bytearray, rng: random.Random) -> None:
    """One bit."""
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite(data: bytearray, rng: random.Random) -> None:
    """A number at the edge of its type, in either order of bytes."""
    size, order = rng.choice((1, 2, 4, 8)), rng.choice(("big", "little"))
    number = rng.choice(NUMBERS) % 256**size
    place = rng.randrange(len(data))
    data[place : place + size] = number.to_bytes(size, order)  # type: ignore[arg-type]


def cut(data: bytearray, rng: random.Random) -> None:
    """The end is missing."""
    del data[rng.randrange(len(data)) :]


def drop(data: bytearray, rng: random.Random) -> None:
    """A piece is missing."""
    place = rng.randrange(len(data))
    del data[place : place + rng.randint(1, 64)]


def repeat(data: bytearray, rng: random.Random) -> None:
    """A piece stands twice."""
    place = rng.randrange(len(data))
    data[place:place] = data[place : place + rng.randint(1, 64)]


def scramble(data: bytearray, rng: random.Random) -> None:
    """A piece is noise."""
    place = rng.randrange(len(data))
    data[place : place + 16] = rng.randbytes(len(data[place : place + 16]))


DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (flip, overwrite, cut, drop, repeat, scramble)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The content with one to four damages; half of them near the beginning, where headers are."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        if not data:
            break
        damage = rng.choice(DAMAGES)
        if damage is not cut and rng.random() < 0.5:
            head, tail = data[:64], data[64:]
            damage(head, rng)
            data = head + tail
        else:
            damage(data, rng)
    return bytes(data)


def deep(levels: int = DEEP) -> str:
    """JSON text of lists in lists."""
    return "[" * levels + "]" * levels


HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63, 10**30, -1.5, 1e308, float("nan"), float("inf"), -float("inf"),
    "", "x", "x" * 10_000, "../../../etc/passwd", "\x00", "__class__", [], {}, [None], [[[]]], {"": {}}, ["x"] * 1000,
    list(range(1000)), {"_target_": "os.system", "_args_": ["touch /tmp/executed"]}, {"_target_": "builtins.exec"},
)  # fmt: skip


def mutated(value: Any, rng: random.Random) -> Any:
    """A JSON value with one or two of its parts replaced by hostile ones, renamed, left out or added."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 2)):
        holders = _holders(value)
        if not holders:
            return rng.choice(HOSTILE)
        holder = rng.choice(holders)
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        key, act = rng.choice(list(keys)), rng.random()
        if act < 0.7:
            holder[key] = copy.deepcopy(rng.choice(HOSTILE))
        elif act < 0.8:
            del holder[key]
        elif isinstance(holder, dict):
            holder[rng.choice(("_target_", "name", "x", ""))] = copy.deepcopy(rng.choice(HOSTILE))
        else:
            holder.append(copy.deepcopy(rng.choice(HOSTILE)))
    return value


def hostile_json(value: Any, rng: random.Random) -> str:
    """JSON text of a mutated value; now and then text that is none, or too deep."""
    text = json.dumps(mutated(value, rng))
    act = rng.random()
    if act < 0.02:
        return deep()
    if act < 0.04:
        return '{"x": 1' + "0" * 5000 + "}"
    if act < 0.1:
        return damaged(text.encode(), rng).decode(errors="replace")
    return text


def _holders(value: Any) -> list[Any]:
    """All lists and dicts in a value that hold something, itself included."""
    found: list[Any] = []
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict | list) and each:
            found.append(each)
            waiting.extend(each.values() if isinstance(each, dict) else each)
    return found
