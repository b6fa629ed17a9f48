"""Devices that this machine does not have: tensors of the device "meta", without numbers, stand for theirs."""

import pytest
import torch

from gmm_torch import GaussianMixture
from gmm_torch.devices import budget, full_precision, has_float64, is_host, summing_device, widest
from gmm_torch.mixture.covariance import get_family
from gmm_torch.mixture.data_summary import Standardisation
from gmm_torch.mixture.e_step import EStep
from gmm_torch.mixture.init import INITIALISATIONS
from gmm_torch.mixture.options import EMOptions
from gmm_torch.mixture.parameters import Parameters

TYPES = ("full", "tied", "diag", "spherical", {"name": "low_rank", "rank": 2})
DEVICES = ("cuda", "xpu", "mps", "hpu", "meta")
each_type = pytest.mark.parametrize("covariance_type", TYPES)
each_device = pytest.mark.parametrize("device", DEVICES)


@each_device
def test_every_device_has_sizes_a_precision_and_a_place_for_sums(device):
    there = torch.device(device)
    assert budget(there, host=1, accelerator=2) == 2
    assert not is_host(there)
    assert has_float64(there) == (device != "mps")
    assert widest(there) == (torch.float32 if device == "mps" else torch.float64)
    assert summing_device(there) == torch.device("cpu" if device == "mps" else device)
    with full_precision(there):
        pass


@each_type
def test_densities_work_on_a_device_that_no_table_knows(covariance_type):
    mixture = GaussianMixture(3, 4, covariance_type, device="meta")
    mixture._seen_fitted = True
    x = torch.empty(4_000_000, 4, device="meta")
    assert mixture.log_prob(x).shape == (4_000_000,)
    assert mixture.predict(x).device.type == "meta"
    found = [mixture.weights, mixture.means, mixture.covariances, mixture.dense_covariances]
    assert all(value.dtype == torch.float32 and value.device.type == "meta" for value in found)


@each_type
def test_sums_are_taken_on_a_device_that_no_table_knows(covariance_type):
    family = get_family(covariance_type)
    wide = {"dtype": torch.float64, "device": "meta"}
    factors = {name: torch.empty(2, *value.shape, **wide) for name, value in family.unit(3, 4).items()}
    parameters = Parameters(torch.empty(2, 3, **wide), torch.empty(2, 3, 4, **wide), factors)
    one = torch.ones(4, **wide)
    step = EStep(family, parameters, one, Standardisation(one, one, one), torch.float32)
    total = step(torch.empty(50_000, 4, device="meta"), torch.empty(50_000, device="meta"))
    assert total.log_likelihood.shape == (2,)


def test_initialisations_work_on_a_device_that_no_table_knows():
    x = torch.empty(500, 4, device="meta")
    means = INITIALISATIONS["random"]().means(x, x[:, 0], 3, 2, torch.Generator())
    assert (means.shape, means.device.type) == ((2, 3, 4), "meta")


def test_a_mixture_on_a_device_without_float64_takes_its_sums_on_the_host(monkeypatch):
    monkeypatch.setattr("gmm_torch.devices.NARROW", ("meta",))
    assert GaussianMixture(3, 4, device="meta").start_em(EMOptions()).device == torch.device("cpu")


@pytest.mark.filterwarnings("ignore::gmm_torch.ConvergenceWarning")
@pytest.mark.parametrize("covariance_type", TYPES)
def test_such_a_mixture_is_the_one_that_the_host_finds(monkeypatch, covariance_type):
    # The host plays both parts: of the device without float64, and of where the sums are taken.
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    expected = GaussianMixture(2, 3, covariance_type).fit(x, max_iter=4)
    monkeypatch.setattr("gmm_torch.devices.NARROW", ("cpu",))
    actual = GaussianMixture(2, 3, covariance_type).fit(x, max_iter=4)
    torch.testing.assert_close(actual.log_prob(x), expected.log_prob(x), rtol=0, atol=0)
    assert actual.covariances.dtype == torch.float32
    torch.testing.assert_close(actual.covariances, expected.covariances, rtol=1e-4, atol=1e-5)
    assert actual.sample(3).shape == (3, 3)
