"""Training with unlabelled images in two processes."""

from functools import partial

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from tests.processes import run_trainers
from trainers.data.datamodule import ImageDataModule
from trainers.data.digits import digits
from trainers.data.unlabelled import Unlabelled
from trainers.modules.mean_teacher import MeanTeacher


class Agreement(Callback):
    """Fails, in each process, where the processes hold different weights or have seen the same images."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self.seen.append(batch["unlabelled"][0].flatten(1).sum(1))

    def on_train_end(self, trainer, pl_module) -> None:
        assert trainer.world_size == 2
        assert trainer.global_step == 5
        for name, parameter in pl_module.named_parameters():
            first, second = pl_module.all_gather(parameter.detach())
            assert torch.equal(first, second), name
        average, student = pl_module.classifier[-1].weight, pl_module.student_classifier[-1].weight
        assert not torch.equal(average, student)
        seen = pl_module.all_gather(torch.cat(self.seen))
        assert len(seen[0]) == 615  # of 1,229 images
        assert not torch.equal(seen[0].sort().values, seen[1].sort().values)


def train(folder: str) -> None:
    torch.manual_seed(0)
    unlabelled = Unlabelled(ratio=3, views=["weak", "weak"])
    data = ImageDataModule(digits, root=None, n_labelled=50, mixture_every=None, batch_size=41, unlabelled=unlabelled)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    before = classifier[-1].weight.detach().clone()
    module = MeanTeacher(classifier, 10, partial(torch.optim.SGD, lr=0.1), decay=0.9)
    trainer = lightning.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, callbacks=[Agreement()],
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    assert not torch.equal(module.classifier[-1].weight, before)


def test_two_processes_share_the_images_and_keep_one_teacher(tmp_path):
    run_trainers(train, (str(tmp_path),))
