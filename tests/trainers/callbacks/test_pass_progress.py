"""The bar of a fit counts iterations, of as many as were asked for at most."""

import lightning
import torch

from gmm_torch import GaussianMixture
from gmm_torch.lightning.mixture_module import MixtureModule
from gmm_torch.mixture.options import EMOptions
from trainers.callbacks.pass_progress import PassProgress


class Recording(PassProgress):
    def __init__(self):
        super().__init__()
        self.said = []

    def _get_train_description(self, current_epoch):
        self.said.append(super()._get_train_description(current_epoch))
        return self.said[-1]


def test_a_pass_is_told_by_its_iteration_of_how_many_at_most(tmp_path):
    features = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    module = MixtureModule(GaussianMixture(4, 2), features, EMOptions(max_iter=3, tol=0.0))
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=module.em.n_passes,
        callbacks=[bar := Recording()],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module)
    assert module.em.n_passes > 10
    assert bar.said == ["Data summary", "Assignment", *(f"Iteration {i} of at most 3" for i in (1, 2, 3))]
