"""Which inputs of a stream are failures, with a bounded false discovery rate at any time; needs `online-fdr`."""

import importlib
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gmm_torch.checks import check_choice, check_p_values, check_probability
from gmm_torch.conformal.stream import Stream

# The class in `online_fdr.p_values`, what it is constructed with, and whether plain conformal p-values will do.
METHODS: dict[str, tuple[str, tuple[str, ...], bool]] = {
    "lond": ("Lond", (), True),
    "lord": ("LordPlusPlus", ("wealth",), False),
    "saffron": ("Saffron", ("wealth", "lambda_"), False),
    "addis": ("Addis", ("wealth", "lambda_", "tau"), False),
}


class OnlineDecisions(NamedTuple):
    """Failures in a piece of a stream, the levels of the tests, and whether a p-value can be up to the last level."""

    found: Tensor  # (N,) bool
    levels: Tensor  # (N,) float64
    can_find: bool


class OnlineDiscoveries(Stream):
    """Names failures in a stream, one by one as they come, at a false discovery rate of at most q whenever one looks.

    What holds depends on the p-values. Those of one calibration set depend on each other, positively (PRDS):

    - "lond" (Javanmard, Montanari 2018, "Online rules for control of false discovery rate and false discovery
      exceedance") keeps the rate with positively dependent p-values (Zrnic, Ramdas, Jordan 2021, "Asynchronous online
      testing of multiple hypotheses"): its levels only rise where another p-value falls.
    - "lord" (LORD++: Ramdas, Yang, Wainwright, Jordan 2017), "saffron" (Ramdas, Zrnic, Wainwright, Jordan 2018) need
      p-values that are independent given the calibration set, and valid given it: those of `ConditionalCalibration`,
      with which the rate holds for a share 1 - delta of calibration sets.
    - "addis" (Tian, Ramdas 2019) needs null p-values that are uniformly conservative besides, which is proven for no
      conformal ones. It promises nothing here, and its `repr` says so; it is here to be compared.

    Levels fall while nothing is found, and once they are below the smallest p-value a method finds nothing more:
    `can_find` says so. It takes a large calibration set. "saffron" and "addis" remember which p-values were small, so
    their state grows by a bit for each input.

    Args:
        q: false discovery rate, in (0, 1).
        smallest: the smallest p-value that there can be: `calibration.p_value` of minus infinity.
        method: one of the above.
        conditional: whether p-values are valid given the calibration set.

    Raises:
        ImportError: `online-fdr` isn't installed.
        ValueError: arguments out of range.
    """

    settings = ("q", "smallest", "method", "conditional")
    state = ("n_seen", "n_found", "last_level", "snapshot")

    def __init__(self, q: float, smallest: float, method: str = "lond", *, conditional: bool = False) -> None:
        check_probability("q", q)
        check_probability("smallest", smallest)
        check_choice("method", method, METHODS)
        self.q, self.smallest, self.method, self.conditional = q, smallest, method, conditional
        name, options, _ = METHODS[method]
        values = {"wealth": q / 2, "lambda_": 0.25 if method == "addis" else 0.5, "tau": 0.5}
        try:
            library = importlib.import_module("online_fdr.p_values")
        except ImportError as error:
            raise ImportError(
                "online control of the false discovery rate needs online-fdr: pip install -e '.[streams]'"
            ) from error
        self._test = getattr(library, name)(q, **{key: values[key] for key in options})
        self.n_seen = self.n_found = 0
        self.last_level = 1.0  # no test yet

    @property
    def snapshot(self) -> dict[str, Any]:
        """The library's own state."""
        result: dict[str, Any] = self._test.snapshot()
        return result

    @snapshot.setter
    def snapshot(self, value: dict[str, Any]) -> None:
        self._test = type(self._test).from_snapshot(value)

    @property
    def promises(self) -> bool:
        """Whether the rate is proven to hold with such p-values."""
        return METHODS[self.method][2] or (self.conditional and self.method != "addis")

    def update(self, p_values: Tensor) -> OnlineDecisions:
        """Test p-values (N,) in the order of the stream."""
        if len(p_values):
            check_p_values(p_values)
        decisions = [self._test.test_one_detail(p) for p in p_values.detach().double().tolist()]
        found, levels = [each.rejected for each in decisions], [each.test_level for each in decisions]
        self.n_seen += len(found)
        self.n_found += sum(found)
        self.last_level = levels[-1] if levels else self.last_level
        return OnlineDecisions(
            torch.tensor(found, dtype=torch.bool),
            torch.tensor(levels, dtype=torch.float64),
            not self.last_level < self.smallest,
        )

    def __repr__(self) -> str:
        given = "valid given the calibration set" if self.conditional else "of one calibration set"
        promise = f"FDR <= {self.q:g}" if self.promises else f"promises nothing for p-values {given}"
        stuck = ", level below any p-value: finds nothing more" if self.last_level < self.smallest else ""
        return f"OnlineDiscoveries({self.method}, {promise}; {self.n_found} found among {self.n_seen}{stuck})"
