from functools import partial

import pytest
import torch
from torch import nn

from trainers.classifiers.checkpoint import load_weights, read_weights
from trainers.classifiers.small_cnn import SmallCNN
from trainers.modules.averaged_module import AveragedClassifierModule, average_into

SGD = partial(torch.optim.SGD, lr=0.1)


def normalised(value: float) -> nn.Module:
    layer = nn.BatchNorm1d(2)
    for tensor in layer.state_dict().values():
        tensor.fill_(value)
    return layer


def test_weights_and_statistics_move_and_counters_are_copied():
    averaged, current = normalised(1.0), normalised(5.0)
    average_into(averaged, current, 0.75)
    assert {name: tensor.flatten()[0].item() for name, tensor in averaged.state_dict().items()} == {
        "weight": 2, "bias": 2, "running_mean": 2, "running_var": 2, "num_batches_tracked": 5,
    }  # fmt: skip
    assert all((tensor == 5).all() for tensor in current.state_dict().values())
    average_into(averaged, current, 0.0)
    assert all((tensor == 5).all() for tensor in averaged.state_dict().values())


def test_only_the_student_learns():
    module = AveragedClassifierModule(SmallCNN(10, in_channels=1, width=8), 10, SGD)
    learning = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert learning == {name for name, _ in module.named_parameters() if name.startswith("student_classifier.")}
    optimizer = module.configure_optimizers()
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(learning)


def test_of_a_checkpoint_the_average_is_loaded(tmp_path):
    module = AveragedClassifierModule(SmallCNN(10, in_channels=1, width=8), 10, SGD)
    with torch.no_grad():
        for parameter in module.student_classifier.parameters():
            parameter.add_(1)
    torch.save({"state_dict": module.state_dict()}, tmp_path / "last.ckpt")
    network = SmallCNN(10, in_channels=1, width=8)
    load_weights(network, read_weights(tmp_path / "last.ckpt"), "last.ckpt")
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, module.classifier.state_dict()[name]), name


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"decay: expected a number in \[0, 1\)"):
        AveragedClassifierModule(SmallCNN(10, in_channels=1), 10, SGD, decay=decay)
