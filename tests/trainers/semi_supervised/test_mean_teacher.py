from functools import partial

import pytest
import torch

from trainers.classifiers.small_cnn import SmallCNN
from trainers.semi_supervised.mean_teacher import MeanTeacher, consistency_loss


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
        ({"weight": -1.0}, "weight and noise must be >= 0"),
        ({"noise": -0.1}, "weight and noise must be >= 0"),
        ({"ramp_up": 1.5}, r"ramp_up must be a share of the steps in \[0, 1\]"),
    ],
)
def test_options_out_of_range_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        MeanTeacher(SmallCNN(10, in_channels=1), 10, partial(torch.optim.SGD, lr=0.1), **option)
