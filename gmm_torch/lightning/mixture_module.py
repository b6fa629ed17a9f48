"""EM under a Lightning Trainer: an epoch is a pass, an epoch's end an update."""

from typing import Any

import lightning
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Sampler, SequentialSampler, TensorDataset

from gmm_torch.distributed import is_distributed
from gmm_torch.mixture import GaussianMixture
from gmm_torch.mixture.data_summary import DataSummary
from gmm_torch.mixture.options import EMOptions
from gmm_torch.mixture.statistics import Statistics


class MixtureModule(lightning.LightningModule):
    """EM over extracted features.

    Sufficient statistics are summed over the processes at the end of a pass, so any number of them gives the mixture
    of one. EM's state is part of the module's, so that a checkpoint resumes after the last whole pass. Logs
    the objective per point in standardised coordinates.

    Args:
        mixture: what to fit.
        features: (N, D), on the CPU or the mixture's device.
        options: of EM.
        batch_size: rows that are moved to the device at once; the result does not depend on it.
        logged_as: the objective's name.
    """

    def __init__(
        self,
        mixture: GaussianMixture,
        features: Tensor,
        options: EMOptions,
        batch_size: int = 2**16,
        logged_as: str = "log_likelihood",
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.mixture = mixture
        self.features = features
        self.batch_size = batch_size
        self.logged_as = logged_as
        self.em = mixture.start_em(options)
        self._total: DataSummary | Statistics | None = None

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """This process's share of the features, in slices; shares differ by at most one row."""
        rows = TensorDataset(self.features)
        share: Sampler[int] = (
            UnrepeatedDistributedSampler(rows, shuffle=False) if is_distributed() else SequentialSampler(rows)
        )
        return DataLoader(rows, sampler=BatchSampler(share, self.batch_size, drop_last=False), batch_size=None)

    def on_fit_start(self) -> None:
        """Move EM to the Trainer's device."""
        self.em.to(self.device)

    def on_train_start(self) -> None:
        """Stop if the checkpoint's EM is done."""
        self.trainer.should_stop = self.em.done

    def on_train_epoch_start(self) -> None:
        """Begin a pass."""
        self._total = self.em.zero()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Add a batch [(n, D)] to the statistics."""
        self._total = self._total + self.em.accumulate(batch[0])  # type: ignore[operator]

    def on_train_epoch_end(self) -> None:
        """Sum over processes, update, and stop when EM is done."""
        assert self._total is not None
        self.em.advance(self._total)
        if self.em.history:
            self.log(self.logged_as, self.em.history[-1].max().float(), prog_bar=True, sync_dist=True)
        self.trainer.should_stop = self.em.done

    def on_fit_end(self) -> None:
        """Store the result in the mixture."""
        if self.em.done:
            self.mixture.adopt(self.em)

    def configure_optimizers(self) -> None:
        """None: EM needs no optimizer."""

    def get_extra_state(self) -> dict[str, Any]:
        """EM's state, for checkpoints."""
        return self.em.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Resume from a checkpoint."""
        self.em.load_state_dict(state)
