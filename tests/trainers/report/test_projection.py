import torch
from sklearn.decomposition import PCA

from trainers.report.projection import principal_plane


def test_the_plane_is_that_of_scikit_learn_up_to_signs():
    features = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 7.0)
    reference = PCA(2).fit_transform(features.double().numpy())
    torch.testing.assert_close(principal_plane(features).abs(), torch.from_numpy(reference).abs())


def test_outliers_outside_the_fit_rows_do_not_turn_it():
    features = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 2.0, 0.1])
    fit_rows = torch.ones(101, dtype=torch.bool)
    fit_rows[100] = False
    with_outlier = torch.cat([features, torch.tensor([[0.0, 0.0, 1e6]])])
    torch.testing.assert_close(principal_plane(with_outlier, fit_rows)[:100], principal_plane(features))


def test_one_feature_has_a_flat_plane():
    plane = principal_plane(torch.arange(5.0)[:, None])
    assert plane.shape == (5, 2)
    assert plane[:, 0].tolist() == [-2, -1, 0, 1, 2]
    assert plane[:, 1].abs().sum() == 0
