from functools import partial

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from trainers.classifiers.small_cnn import SmallCNN
from trainers.modules.mean_teacher import MeanTeacher, consistency_loss


def test_the_loss_is_the_squared_distance_of_the_predictions():
    student = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]).log().requires_grad_()
    teacher = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]).log().requires_grad_()
    loss = consistency_loss(student, teacher)
    assert loss.item() == pytest.approx((0.2**2 + 0.1**2 + 0.1**2) / 2, rel=1e-5)
    loss.backward()
    assert student.grad[0].abs().min() > 0
    assert teacher.grad is None


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"weight": -1.0}, "weight and noise: expected numbers >= 0"),
        ({"noise": -0.1}, "weight and noise: expected numbers >= 0"),
        ({"ramp_up": 1.5}, r"ramp_up: expected a share of the steps in \[0, 1\]"),
    ],
)
def test_options_out_of_range_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        MeanTeacher(SmallCNN(10, in_channels=1), 10, partial(torch.optim.SGD, lr=0.1), **option)


def test_without_noise_the_first_teacher_says_what_the_student_says(tmp_path):
    """A student with the batch's statistics could not match a teacher with running ones."""
    images = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(16) % 10
    # the same images on both sides, so that both batches have the same statistics
    loader = DataLoader([0], collate_fn=lambda _: {"labelled": (images, labels), "unlabelled": (images, images)})
    module = MeanTeacher(SmallCNN(10, in_channels=1, width=8), 10, partial(torch.optim.SGD, lr=0.1), noise=0.0)
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, loader)
    assert trainer.callback_metrics["train/consistency"].item() == pytest.approx(0, abs=1e-10)
