"""A warning names the line that called us, whatever lies between."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning as SklearnConvergenceWarning
from sklearn.model_selection import cross_val_score

from gmm_torch import ConvergenceWarning, GaussianMixture
from gmm_torch.sklearn import GaussianMixture as SklearnMixture


def files_named(category, call):
    """The files that the warnings of a call point to."""
    with pytest.warns(category) as caught:
        call()
    return {each.filename for each in caught if each.category is category}


def test_a_mixture_among_scikit_learn_s_folds_warns_at_the_callers_line():
    x = np.random.default_rng(0).normal(size=(100, 2))
    mixture = SklearnMixture(2, max_iter=1)
    assert files_named(SklearnConvergenceWarning, lambda: cross_val_score(mixture, x, cv=2)) == {__file__}


@pytest.mark.parametrize("name", ["transformers.pipelines.base", "torch.nn.modules.module", "lightning.pytorch.loops"])
def test_others_that_call_our_methods_are_passed_over(name):
    scope = {"__name__": name}
    exec("def run(method, *args, **options): method(*args, **options)", scope)
    mixture, x = GaussianMixture(3, 2), torch.randn(200, 2)
    assert files_named(ConvergenceWarning, lambda: scope["run"](mixture.fit, x, max_iter=1)) == {__file__}


def test_code_without_a_module_s_name_is_warned_where_python_can_do_so():
    scope = {"mixture": GaussianMixture(3, 2), "x": torch.randn(200, 2)}
    assert files_named(ConvergenceWarning, lambda: exec("mixture.fit(x, max_iter=1)", scope)) == {"<string>"}
    exec("mixture.fit(x, max_iter=1)", scope | {"__name__": None})  # of which the module `warnings` knows no place
    assert scope["mixture"].n_iter == 1
