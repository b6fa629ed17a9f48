"""Which repeated timings may be stated: none below zero, enough repeats, and repeats that agree.

A machine that does something else beside a benchmark shows in the benchmark's own repeats. What they say too little
about is not written to a page.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

REPEATS = 5  # the fewest whose median is stated
SPREAD = 0.25  # the largest interquartile range, as a share of the median
NOTHING = "No time is stated here until it was measured on a machine that does nothing else."


class NoisyTimingError(ValueError):
    """Repeats that a number must not be made of."""


def median_seconds(what: str, seconds: Sequence[float]) -> float:
    """The median of repeats that may be stated.

    Args:
        what: is measured; named in the error.
        seconds: of every repeat, or of something else that is above zero, such as the ratio of two times.

    Raises:
        NoisyTimingError: a repeat at or below zero, fewer repeats than `REPEATS`, quartiles further apart than `SPREAD`
            times the median.
    """
    if len(seconds) < REPEATS:
        raise NoisyTimingError(f"{what}: expected at least {REPEATS} repeats; got {len(seconds)}")
    if not min(seconds) > 0:
        raise NoisyTimingError(f"{what}: expected every repeat above zero; got {min(seconds):.3g}: measure again")
    low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75))
    check_quartiles(what, median, low, high)
    return statistics.median(seconds)


def check_quartiles(what: str, median: float, low: float, high: float) -> None:
    """Raise `NoisyTimingError` where the quartiles are further apart than `SPREAD` times the median."""
    if not high - low <= SPREAD * median:
        raise NoisyTimingError(
            f"{what}: expected quartiles at most {SPREAD:.0%} of the median apart; got {low:.3g} to {high:.3g} about "
            f"{median:.3g}: measure again on a machine that does nothing else"
        )


def check_no_time_below_zero(result: Any) -> None:
    """Raise `NoisyTimingError` where a result has a number below zero under a name with "seconds" in it."""
    for place, value in _times(result, ""):
        if value < 0:
            raise NoisyTimingError(f"{place}: expected no time below zero; got {value:.3g}: measure again")


def _times(result: Any, place: str, named: bool = False) -> Iterator[tuple[str, float]]:
    if isinstance(result, Mapping):
        for name, value in result.items():
            yield from _times(value, f"{place}.{name}".lstrip("."), named or "seconds" in str(name))
    elif isinstance(result, list | tuple):
        for index, value in enumerate(result):
            yield from _times(value, f"{place}[{index}]", named)
    elif named and isinstance(result, int | float):
        yield place, result
