"""One question asked in two ways: what a row of the table is, and when two answers agree."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

Ask = Callable[[], Any]


@dataclass(frozen=True)
class Way:
    """One way to ask.

    Attributes:
        ask: gives the answer: a tensor, an array, a number, a string, or any nesting of these.
        rtol, atol: how far numbers may be from the first way's, as `torch.testing.assert_close` counts; exact by
            default. A way that computes in another order or precision names what that may cost.
        needs: modules without which it can't be asked.
        marks: of pytest.
    """

    ask: Ask
    rtol: float = 0.0
    atol: float = 0.0
    needs: tuple[str, ...] = ()
    marks: tuple[Any, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether the answers must be the same to the last bit."""
        return self.rtol == self.atol == 0.0


def near(ask: Ask, atol: float, rtol: float | None = None, **more: Any) -> Way:
    """A way whose numbers may differ a little; relatively by the same, unless said otherwise."""
    return Way(ask, atol if rtol is None else rtol, atol, **more)


@dataclass(frozen=True)
class Row:
    """One line of the table: `question`, asked as `one` and as `other`, has the same answer."""

    theme: str
    question: str
    one: str
    other: str
    ask: Ask
    way: Way

    def __str__(self) -> str:
        return f"{self.theme}: {self.question}: {self.other} = {self.one}"

    def check(self) -> None:
        """Ask both ways.

        Raises:
            AssertionError: they disagree; the message says where.
        """
        for module in self.way.needs:
            pytest.importorskip(module)
        expected = self.ask()  # first: what is made once for all must not be made in some way's surroundings
        assert_same(self.way.ask(), expected, self.way.rtol, self.way.atol)


def asked(theme: str, question: str, ways: Mapping[str, Ask | Way]) -> list[Row]:
    """A row for each way but the first, which is asked once and compared with all others."""
    (one, first), *others = ways.items()
    ask = cache(first.ask if isinstance(first, Way) else first)
    return [Row(theme, question, one, other, ask, way if isinstance(way, Way) else Way(way)) for other, way in others]


def assert_same(actual: Any, expected: Any, rtol: float, atol: float, place: str = "answer") -> None:
    """Raise `AssertionError` unless two answers agree; a NaN agrees with nothing."""
    if isinstance(expected, Mapping):
        assert list(actual) == list(expected), f"{place}: other entries"
        for key in expected:
            assert_same(actual[key], expected[key], rtol, atol, f"{place}[{key!r}]")
    elif isinstance(expected, Sequence) and not isinstance(expected, str | bytes):
        assert len(actual) == len(expected), f"{place}: {len(actual)} entries, not {len(expected)}"
        for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
            assert_same(a, b, rtol, atol, f"{place}[{i}]")
    elif isinstance(expected, torch.Tensor | np.ndarray | np.generic | float):
        a, b = (torch.as_tensor(_number(value)).detach().cpu() for value in (actual, expected))
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol, check_dtype=False, msg=lambda text: f"{place}: {text}")
    else:
        assert actual == expected, f"{place}: {actual!r}, not {expected!r}"


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, Fraction) else value
