import foolbox
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from trainers.attacks import Attack
from trainers.attacks.hop_skip_jump import HopSkipJump, starting_points


class _Bright(nn.Module):
    """Class 1 where the mean is above a half."""

    def forward(self, x):
        mean = x.flatten(1).mean(dim=1) - 0.5
        return torch.stack([-mean, mean], dim=1)


class _One(nn.Module):
    """Class 0, whatever the image."""

    def forward(self, x):
        return torch.tensor([1.0, 0.0]).expand(len(x), 2)


def test_starting_points_are_the_nearest_of_another_class():
    images = torch.tensor([0.1, 0.2, 0.55, 0.9]).reshape(4, 1, 1, 1).expand(4, 1, 20, 20).contiguous()
    labels = torch.tensor([0, 0, 1, 1])
    start, found = starting_points(foolbox.PyTorchModel(_Bright().eval(), (0, 1)), images, labels)
    assert found.all()
    assert torch.equal(start[0], images[2])
    assert torch.equal(start[1], images[2])
    with torch.no_grad():
        assert (_Bright()(start).argmax(1) != labels).all()


def test_without_another_class_the_images_stay():
    images = torch.rand(3, 1, 8, 8)
    labels = torch.zeros(3, dtype=torch.int64)
    model = foolbox.PyTorchModel(_One().eval(), (0, 1))
    assert not starting_points(model, images, labels)[1].any()
    assert torch.equal(HopSkipJump(steps=2).run(model, images, labels), images)


def test_it_comes_near_the_smallest_perturbation_by_decisions_alone():
    generator = torch.Generator().manual_seed(0)
    levels = torch.tensor([0.3, 0.35, 0.65, 0.7]).reshape(4, 1, 1, 1)
    images = (levels + 0.1 * torch.rand(4, 1, 4, 4, generator=generator)).clamp(0, 1)
    labels = (images.flatten(1).mean(1) > 0.5).long()
    attack = Attack("jump", HopSkipJump(steps=8, initial_gradient_eval_steps=50), None, black_box=True)
    result = attack.run(_Bright(), DataLoader(TensorDataset(images, labels)))
    assert result.success_rate == 1
    # towards the boundary every pixel moves by the same
    smallest = 4 * (images.flatten(1).mean(1) - 0.5).abs()
    found = (result.images - images).flatten(1).norm(dim=1)
    assert (found >= smallest * 0.999).all()
    assert (found <= smallest * 1.15).all()
