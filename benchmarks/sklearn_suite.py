"""Run scikit-learn's own installed tests of its Gaussian mixture against `gmm_torch.sklearn.GaussianMixture`.

    python benchmarks/sklearn_suite.py

The class is put in the place of `sklearn.mixture.GaussianMixture`, then pytest runs scikit-learn's `test_mixture.py`
and `test_gaussian_mixture.py`, in float64 and float32; `check_estimator` comes first. Prints the outcomes as a Markdown
table, writes `benchmarks/results/sklearn_suite.json` and the counts of docs/sklearn.md, and exits with 1 where a test
that is not in `NOT_APPLICABLE` fails or is skipped, or an estimator check fails.
"""

import collections
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import sklearn
import sklearn.mixture
import torch
from pages import RESULTS, ROOT, fill, save
from sklearn.utils.estimator_checks import check_estimator

from gmm_torch.sklearn import GaussianMixture as DropIn

MODULES = ("sklearn.mixture.tests.test_mixture", "sklearn.mixture.tests.test_gaussian_mixture")
RESULT = RESULTS / "sklearn_suite.json"

# Tests that need not pass, and why; `docs/sklearn.md` repeats the reasons.
NOT_APPLICABLE = {
    "test_check_weights": "expects scikit-learn's message for weights out of range, which swaps the largest and the "
    "smallest",
    "test_multiple_init": "compares five restarts with one fit from another start",
    "test_init": "compares ten restarts with one fit from another start",
    "test_regularisation": "expects an error where `reg_covar=0` and a component collapses; the drop-in fits",
    "test_gaussian_mixture_precisions_init_diag": "gives precisions in the order in which scikit-learn's k-means "
    "numbers its clusters for one seed",
    "test_gaussian_mixture_precisions_init": "calls the private `_set_parameters` and `_initialize`",
    "test_gaussian_mixture_all_init_does_not_estimate_gaussian_parameters": "counts calls of a private function",
    "test_gaussian_mixture_array_api_compliance": "array API dispatch: the drop-in returns NumPy arrays",
    "test_gaussian_mixture_raises_where_array_api_not_implemented": "array API dispatch: there is nothing to refuse",
}


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
        outcomes: name of a test function -> "passed", "failed", "skipped" or "not about the class" -> how many of its
            parametrisations.
    """

    def __init__(self) -> None:
        self.outcomes: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.made_before = 0

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out the parametrisations over scikit-learn's other mixture."""
        other = sklearn.mixture.BayesianGaussianMixture
        items[:] = [item for item in items if not any(isinstance(value, other) for value in parameters(item))]

    def pytest_runtest_setup(self) -> None:
        """Remember the count."""
        self.made_before = GaussianMixture.made

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what came of a test."""
        name = report.location[2].split("[")[0]
        if report.skipped or report.failed:
            self.outcomes[name][report.outcome] += 1
        elif report.when == "call":
            used = GaussianMixture.made > self.made_before
            self.outcomes[name]["passed" if used else "not about the class"] += 1


def parameters(item: pytest.Item) -> list[Any]:
    """What a test is parametrised with."""
    return list(item.callspec.params.values()) if hasattr(item, "callspec") else []


def run_suite() -> dict[str, dict[str, int]]:
    """Run both modules; the outcomes of each test function."""
    os.environ.setdefault("SKLEARN_RUN_FLOAT32_TESTS", "1")
    sklearn.mixture.GaussianMixture = GaussianMixture
    recorder = Recorder()
    # No configuration file and no cache: the tests belong to scikit-learn, not to this project.
    options = ["-c", os.devnull, "--rootdir", str(Path(sklearn.__file__).parent), "-p", "no:cacheprovider"]
    pytest.main([*options, "-q", "--tb=line", "--disable-warnings", "--pyargs", *MODULES], plugins=[recorder])
    return {name: dict(counts) for name, counts in recorder.outcomes.items()}


def table(outcomes: dict[str, dict[str, int]]) -> str:
    """Markdown, one line a test function."""
    lines = ["| test | outcome |", "| --- | --- |"]
    for name, counts in outcomes.items():
        lines.append(f"| `{name}` | {', '.join(f'{count} {outcome}' for outcome, count in counts.items())} |")
    return "\n".join(lines)


def markdown(result: Mapping[str, Any]) -> str:
    """The counts of docs/sklearn.md."""
    checks, tests = result["check_estimator"], result["tests"]
    whole = [name for name, counts in tests.items() if set(counts) == {"passed"}]
    lucky = [f"`{name}`" for name in whole if name in NOT_APPLICABLE]
    without = sum("not about the class" in counts for counts in tests.values())
    skipped = checks.get("skipped", 0)
    text = (
        f"With scikit-learn {result['versions']['scikit-learn']}: of {sum(checks.values())} estimator checks "
        f"{checks['passed']} pass and {checks.get('failed', 0)} fail; {skipped} were not run, for want of pandas or of "
        f"`SCIPY_ARRAY_API=1`. Of {len(tests)} test functions {len(whole)} pass in all their parametrisations, "
        f"{without} make no mixture."
    )
    if lucky:
        text += f" Among those that pass are {' and '.join(lucky)}, by the luck of a start."
    return text


def main() -> int:
    """Run everything; see the first lines of the module."""
    checks = collections.Counter(check["status"] for check in check_estimator(DropIn(), on_fail=None, on_skip=None))
    outcomes = run_suite()
    totals: collections.Counter[str] = sum(map(collections.Counter, outcomes.values()), collections.Counter())
    surprises = [
        name
        for name, counts in outcomes.items()
        if ("failed" in counts or "skipped" in counts) and name not in NOT_APPLICABLE
    ]
    versions = {"scikit-learn": sklearn.__version__, "torch": torch.__version__}
    result = {"versions": versions, "check_estimator": checks, "totals": totals, "tests": outcomes}
    save(RESULT, result)
    fill(ROOT / "docs" / "sklearn.md", "sklearn_suite", markdown(result))
    print(table(outcomes))
    print(f"\nsuite: {dict(totals)}\ncheck_estimator: {dict(checks)}")
    for name in surprises:
        print(f"not as expected: {name} {outcomes[name]}")
    return 1 if surprises or not outcomes or checks["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
