"""The progress of a fit by EM."""

from lightning.pytorch.callbacks import RichProgressBar

from gmm_torch.lightning.mixture_module import MixtureModule

PHASES = {"summary": "Data summary", "assign": "Assignment"}


class PassProgress(RichProgressBar):
    """Lightning's bar, which says which iteration a pass is, and how many there are at most.

    The Trainer's own number of epochs is of passes that no fit needs more than, of which most make a hundredth.
    """

    def _get_train_description(self, current_epoch: int) -> str:
        module = self.trainer.lightning_module
        assert isinstance(module, MixtureModule)
        em = module.em
        return PHASES.get(em.phase, f"Iteration {len(em.history) + 1} of at most {em.options.max_iter}")
