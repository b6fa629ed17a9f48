"""Parsing of perturbation budgets."""

import math
from fractions import Fraction


def parse_budget(name: str, value: float | str, largest: float = math.inf) -> float:
    """A budget in pixel values of [0, 1]: a number, or a fraction such as "8/255" or "0.5/255".

    Raises:
        ValueError: it is neither, not positive, or above the largest that makes sense: 1 in the maximum norm.
    """
    try:
        numerator, _, denominator = str(value).partition("/")
        budget = float(Fraction(numerator)) / float(denominator or 1)
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(f"{name}: expected a number, or a fraction such as 8/255; got {value!r}") from error
    if not budget > 0:
        raise ValueError(f"{name}: expected a positive number; got {value!r}")
    if budget > largest:
        raise ValueError(
            f"{name}: expected at most {largest:g}, for pixels lie in [0, 1]: 8 of 255 steps are 8/255; got {value!r}"
        )
    return budget
