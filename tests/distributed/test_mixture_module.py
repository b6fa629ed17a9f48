"""EM under a Lightning Trainer: two processes, one mixture."""

import lightning
import pytest
import torch

from gmm_torch import GaussianMixture
from gmm_torch.lightning.mixture_module import MixtureModule
from gmm_torch.mixture.options import EMOptions
from trainers.callbacks.pass_checkpoint import PassCheckpoint
from trainers.run.strategies import without_gradients

OPTIONS = EMOptions(max_iter=8, tol=0.0, seed=3)


def features() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(501, 4, generator=generator) + 4 * torch.randint(0, 3, (501, 1), generator=generator)


def fit(covariance_type: str, tmp_path, **trainer: object) -> GaussianMixture:
    mixture = GaussianMixture(3, 4, covariance_type)
    return run(mixture, MixtureModule(mixture, features(), OPTIONS, batch_size=100), tmp_path, **trainer)


def run(mixture: GaussianMixture, module: MixtureModule, tmp_path, ckpt_path=None, **trainer) -> GaussianMixture:
    checkpointing = {"enable_checkpointing": "callbacks" in trainer}
    lightning.Trainer(
        accelerator="cpu", max_epochs=module.em.n_passes, logger=False, **checkpointing,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        default_root_dir=tmp_path, **trainer,
    ).fit(module, ckpt_path=ckpt_path, weights_only=True)  # fmt: skip
    return mixture.adopt(module.em)


@pytest.mark.filterwarnings("ignore::gmm_torch.ConvergenceWarning", "ignore:.*run with no optimizer.*")
@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_a_trainer_gives_the_mixture_that_fit_gives(covariance_type, tmp_path):
    under_trainer = fit(covariance_type, tmp_path)
    alone = GaussianMixture(3, 4, covariance_type).fit(features(), max_iter=8, tol=0.0, seed=3)
    torch.testing.assert_close(under_trainer.log_prob(features()), alone.log_prob(features()), rtol=1e-5, atol=1e-5)
    assert under_trainer.n_iter == alone.n_iter == 8


@pytest.mark.filterwarnings("ignore::gmm_torch.ConvergenceWarning", "ignore:.*run with no optimizer.*")
@pytest.mark.parametrize("options", [OPTIONS, EMOptions(tol=0.1)], ids=["stopped", "converged"])
def test_a_fit_that_is_done_is_not_gone_on_from_its_checkpoint(options, tmp_path):
    fits, last = [], tmp_path / "last.ckpt"
    for _ in range(2):
        mixture = GaussianMixture(3, 4)
        module = MixtureModule(mixture, features(), options)
        ckpt_path = last if last.exists() else None
        callbacks = [PassCheckpoint(last, 0)]
        fits.append(run(mixture, module, tmp_path, callbacks=callbacks, ckpt_path=ckpt_path))
    assert fits[0].n_iter == fits[1].n_iter
    torch.testing.assert_close(fits[0].means, fits[1].means, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore::gmm_torch.ConvergenceWarning", "ignore:.*run with no optimizer.*")
def test_a_pass_that_is_taken_again_costs_no_iteration(tmp_path):
    """A component falls onto copies of one point: it turns out to need float64 once its moments are summed."""
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(300, 4, generator=generator), torch.tensor([[3.0, 0, 0, 0]]).expand(200, 4)])
    means = torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0]], dtype=torch.float64)
    mixture, alone = GaussianMixture(2, 4), GaussianMixture(2, 4)
    module = MixtureModule(mixture, x, EMOptions(max_iter=4, tol=0.0, means_init=means))
    passes = []
    advance = module.em.advance
    module.em.advance = lambda total: passes.append(advance(total))
    run(mixture, module, tmp_path)
    alone.fit(x, max_iter=4, tol=0.0, means_init=means)
    assert len(passes) > 2 + 4  # else nothing was taken again
    assert mixture.n_iter == alone.n_iter == 4
    torch.testing.assert_close(mixture.log_prob(x), alone.log_prob(x), rtol=1e-6, atol=1e-5)


@pytest.mark.filterwarnings("ignore::gmm_torch.ConvergenceWarning", "ignore:.*run with no optimizer.*")
def test_two_processes_give_the_mixture_of_one(tmp_path):
    one = fit("full", tmp_path)
    spawning = without_gradients("ddp_spawn")
    assert spawning._start_method == "spawn"
    spawning._start_method = "forkserver"  # the same launcher; its processes have their imports done
    two = fit("full", tmp_path, devices=2, strategy=spawning)
    for name in ("weights", "means", "covariances"):
        torch.testing.assert_close(getattr(one, name), getattr(two, name), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(one.history, two.history, rtol=1e-6, atol=1e-6)
