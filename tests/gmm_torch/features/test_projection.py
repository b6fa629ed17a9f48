import pytest
import torch
from torch import nn

from gmm_torch import FailureDetector
from gmm_torch.features import projection as projection_module
from gmm_torch.features.projection import Projection


def test_narrow_features_are_kept():
    x = torch.randn(5, 8)
    projection = Projection(8, max_width=8).fit(x)
    assert projection.width == 8
    assert torch.equal(projection(x), x)


def test_wide_features_become_principal_coordinates_and_their_residual():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 3, generator=generator) @ torch.randn(3, 40, generator=generator) + 2
    projection = Projection(40, max_width=4).fit(x)
    z = projection(x)
    assert z.shape == (500, 4)
    torch.testing.assert_close(z[:, :3].square().sum(1), (x - x.mean(0)).square().sum(1), rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(z[:, 3], torch.zeros(500), rtol=0, atol=1e-3)
    assert projection(x + torch.randn(40, generator=generator))[:, 3].min() > 1


def test_the_same_points_give_the_same_directions_and_the_global_generator_is_left_alone():
    x = torch.randn(100, 30)
    before = torch.random.get_rng_state()
    first, second = Projection(30, 5).fit(x), Projection(30, 5).fit(x)
    assert torch.equal(first.basis, second.basis)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("few", [400, 5000])
def test_classes_in_order_give_the_directions_of_a_shuffled_set(few, monkeypatch):
    monkeypatch.setattr(projection_module, "MAX_ROWS", few)
    generator = torch.Generator().manual_seed(0)
    centres = 8 * torch.randn(10, 30, generator=generator)
    x = torch.cat([centre + torch.randn(200, 30, generator=generator) for centre in centres])
    shuffled = x[torch.randperm(len(x), generator=generator)]
    in_order, mixed = Projection(30, 12).fit(x), Projection(30, 12).fit(shuffled)
    assert torch.equal(in_order.centre, mixed.centre)
    assert torch.equal(in_order.basis, mixed.basis)
    # all classes lie near the directions, not only the first few
    assert float(in_order(x)[:, -1].reshape(10, 200).mean(1).max()) < 6


def test_fewer_points_than_directions_is_no_error():
    projection = Projection(30, 20).fit(torch.randn(7, 30))
    assert torch.isfinite(projection(torch.randn(3, 30))).all()


def test_a_wide_network_gets_a_detector_that_fits_in_memory():
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Conv2d(1, 600, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(600, 300))
    x = torch.rand(120, 1, 6, 6)
    detector = FailureDetector(wide, n_components=2).fit(x[:60].split(20)).calibrate(x[60:].split(20))
    widths = [mixture.n_features for mixture in detector.modules() if hasattr(mixture, "n_features")]
    assert max(widths) == 48 // 8 + 1  # as many directions as the images, 48 of 60, can tell
    assert torch.isfinite(detector(x[:4]).score).all()
