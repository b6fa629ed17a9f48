"""A covariance family or an initialisation is one new file: registry, mixture and contract tests find it themselves."""

import re
from pathlib import Path

from tests.processes import pytest_in, started

TESTS = Path(__file__).parents[1]

FAMILY = '''
from gmm_torch.mixture.covariance.diag import Diag

class Shared(Diag):
    """One variance for every feature, the same for all components: {"factor": (..., 1, D)}."""
    name = "shared_variances"
    splits_components = False

    def unit(self, n_components, n_features):
        return super().unit(1, n_features)

    def dense(self, factors, n_components, n_features):
        one = super().dense(factors, 1, n_features)
        return one.expand(*one.shape[:-3], n_components, n_features, n_features)

    def transform_noise(self, noise, component, factors):
        return noise / factors["factor"]

    def n_parameters(self, n_components, n_features):
        return n_features

    def quadratic(self, factors, n_components, n_features):
        precision = factors["factor"].square()
        return precision.expand(*precision.shape[:-2], n_components, n_features)

    def estimate(self, moments, means, counts, reg_covar):
        table, n_features = moments["moments"], means.shape[-1]
        exact = table[..., :1]  # zero for a component without points
        scatter = (table[..., n_features + 1 :] - exact * means.square()).sum(-2, keepdim=True)
        variance = (scatter / exact.sum(-2, keepdim=True)).clamp_min(0) + reg_covar
        return {"factor": variance.rsqrt()}, counts.new_zeros(counts.shape)

    def replace(self, factors, component, variance):
        return factors

    def keep_empty(self, factors, previous, occupied):
        return factors
'''
INITIALISATION = '''
from gmm_torch.mixture.init.random_from_data import RandomFromData

class HalfWay(RandomFromData):
    """Points drawn at random, moved half of the way to the mean of all."""
    name = "half_way"

    def means(self, x, weight, n_components, n_init, generator):
        drawn = super().means(x, weight, n_components, n_init, generator)
        return (drawn + (weight @ x) / weight.sum()) / 2
'''


def test_a_family_and_an_initialisation_are_one_file_each_and_keep_the_contracts(tmp_path):
    (folder := tmp_path / "new").mkdir()
    (folder / "new_family.py").write_text(FAMILY)
    (folder / "new_initialisation.py").write_text(INITIALISATION)
    tests = [TESTS / "contracts/test_covariance.py", TESTS / "gmm_torch/mixture/init/test_init.py"]
    options = ["--noconftest", "-p", "no:cacheprovider", "-p", "new_family", "-p", "new_initialisation"]
    chosen = ["-rA", "-k", "shared_variances or half_way"]
    words = (str(folder), *options, *chosen, *map(str, tests))
    process = started(pytest_in, words, TESTS.parent, tmp_path / "said")
    process.join()
    said = (tmp_path / "said").read_text()
    assert process.exitcode == 0, said
    assert len(re.findall(r"PASSED .*shared_variances", said)) > 20
    assert len(re.findall(r"PASSED .*half_way", said)) > 5
    assert {path.name for path in folder.iterdir()} == {"new_family.py", "new_initialisation.py"}
