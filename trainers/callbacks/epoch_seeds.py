"""Random states that a resumed training finds again."""

import lightning

from trainers.data.epochs import epoch_seed


class EpochSeeds(lightning.Callback):
    """Begins every epoch of a training from random states that follow from a seed and the epoch.

    A checkpoint holds no random states. With these a training that is resumed at an epoch's end draws the dropout and
    the augmentation that one without interruption draws.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Seed Python's, NumPy's and torch's generators."""
        lightning.seed_everything(epoch_seed(self.seed, trainer.current_epoch), workers=True, verbose=False)
