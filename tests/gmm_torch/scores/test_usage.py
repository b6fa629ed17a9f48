"""Components that hold nothing are told, and in the cases that people have they hold something."""

import warnings

import pytest
import torch

from gmm_torch import ComponentsWarning, GaussianMixture
from gmm_torch.features.features import Features
from gmm_torch.scores import make_score
from gmm_torch.scores.feature_mixture import FeatureMixture
from gmm_torch.scores.usage import warn_of_unused_components


def outputs(logits: torch.Tensor) -> Features:
    return Features(logits[:, None], {})


def model(means: list[float]) -> FeatureMixture:
    k = len(means)
    mixture = GaussianMixture(k, 1, "spherical")
    mixture.set_parameters(torch.full((k,), 1 / k), torch.tensor(means)[:, None], torch.ones(k))
    return FeatureMixture(mixture, lambda outputs: outputs.logits[:, 0], [])


def test_one_component_that_holds_nearly_all_is_told_with_the_numbers():
    x = outputs(torch.cat([torch.zeros(95, 1), torch.full((5, 1), 100.0)]))
    with pytest.warns(ComponentsWarning, match=r"moments: 95% of 100 inputs fall to one of 2 components.* 1\.2 comp"):
        warn_of_unused_components({"moments": model([0.0, 100.0])}, x)


def test_components_in_use_and_single_ones_are_not_told():
    x = outputs(torch.cat([torch.zeros(60, 1), torch.full((40, 1), 100.0)]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_unused_components({"two": model([0.0, 100.0]), "one": model([0.0])}, x)


@pytest.mark.parametrize(("n", "width"), [(100, 60), (400, 60), (400, 300), (400, 700)])
def test_new_inputs_use_the_components_however_few_points_there_were_for_the_width(n, width):
    """Without shrinkage, and with more directions than points tell, all new inputs fall to the widest component."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 2 * width, generator=generator)  # classes that overlap, in few of many directions

    def drawn(n):
        latent = torch.randn(n, 6, generator=generator) + 2 * torch.eye(6)[torch.randint(6, (n,), generator=generator)]
        features = (latent @ mixing + 2 * torch.randn(n, 2 * width, generator=generator)).abs()
        return Features(latent[:, None], {"stage": features[:, None]})

    score = make_score("moment_likelihood").build({"stage": 2 * width}, 1, 6)
    score.fit(drawn(n), lambda mixture, z: mixture.fit(z, reg_covar=1e-2, shrinkage="oas"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_unused_components(score.models(), drawn(500))
