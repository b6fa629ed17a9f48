import numpy as np
import torch

from gmm_torch.scores.class_moments import class_moments


def test_moments_are_those_of_numpy_far_from_the_origin_too():
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 3, (300,), generator=generator)
    points = torch.randn(300, 4, generator=generator).double() + label[:, None] + 1e6
    found = class_moments(points, label, 4, 1e-12)
    data, classes = points.numpy(), label.numpy()
    means = np.stack([data[classes == c].mean(0) for c in range(3)])
    np.testing.assert_allclose(found.means[:3].numpy(), means, rtol=1e-12)
    np.testing.assert_allclose(found.means[3].numpy(), data.mean(0), rtol=1e-12)
    within = (data - means[classes]).T @ (data - means[classes]) / 300
    np.testing.assert_allclose(found.within.numpy(), within, atol=1e-6)


def test_the_covariance_is_positive_definite_whatever_the_points():
    for points in (torch.ones(10, 3), torch.zeros(1, 3), torch.arange(30.0).reshape(10, 3)):
        found = class_moments(points, torch.zeros(len(points), dtype=torch.long), 2, 1e-4)
        assert torch.linalg.eigvalsh(found.within).min() > 0
