from functools import partial

import pytest
import torch
import torch.nn.functional as F

from trainers.classifiers.small_cnn import SmallCNN
from trainers.modules.fixmatch import FixMatch, fixmatch_loss


def test_sure_images_alone_count_and_the_mean_is_over_all():
    weak = torch.tensor([[0.96, 0.03, 0.01], [0.01, 0.95, 0.04], [0.5, 0.3, 0.2], [0.94, 0.03, 0.03]]).log()
    strong = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss, sure = fixmatch_loss(weak, strong, 0.945)
    assert sure.tolist() == [True, True, False, False]
    expected = F.cross_entropy(strong[:2], torch.tensor([0, 1]), reduction="sum") / 4
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert (strong.grad.abs().sum(dim=1) > 0).tolist() == sure.tolist()


def test_pseudo_labels_are_constants():
    weak = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    strong = torch.randn(8, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    loss, sure = fixmatch_loss(weak, strong, 0.0)
    assert sure.all()
    torch.testing.assert_close(loss, F.cross_entropy(strong, weak.argmax(1)))
    loss.backward()
    assert weak.grad is None


def test_where_nothing_is_sure_the_loss_is_zero():
    loss, sure = fixmatch_loss(torch.zeros(5, 3), torch.randn(5, 3), 0.95)
    assert loss == 0
    assert not sure.any()


@pytest.mark.parametrize(
    ("option", "message"),
    [({"threshold": 1.1}, r"threshold: expected a probability"), ({"weight": -1.0}, "weight: expected a number >= 0")],
)
def test_options_out_of_range_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        FixMatch(SmallCNN(10, in_channels=1), 10, partial(torch.optim.SGD, lr=0.1), **option)
