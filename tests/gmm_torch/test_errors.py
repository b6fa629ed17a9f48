"""A warning names the line that called us, whatever lies between."""

import pytest
import torch

from gmm_torch import ComponentsWarning, ConvergenceWarning, FailureDetector, GaussianMixture


def files_named(category, call):
    """The files that the warnings of a call point to."""
    with pytest.warns(category) as caught:
        call()
    return {each.filename for each in caught if each.category is category}


def test_a_fit_that_does_not_converge_warns_at_the_callers_line():
    mixture = GaussianMixture(3, 2)
    assert files_named(ConvergenceWarning, lambda: mixture.fit(torch.randn(200, 2), max_iter=1)) == {__file__}


def test_a_detector_fitted_to_few_inputs_warns_at_the_callers_line():
    detector = FailureDetector(torch.nn.Sequential(torch.nn.Linear(6, 3)))
    assert files_named(ComponentsWarning, lambda: detector.fit([torch.randn(60, 6)])) == {__file__}
