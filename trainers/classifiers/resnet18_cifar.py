"""ResNet-18 for small images."""

from torch import nn
from torchvision.models import ResNet, resnet18


def resnet18_cifar(num_classes: int, in_channels: int = 3) -> ResNet:
    """torchvision's ResNet-18 (He et al. 2016) with a 3x3 stem of stride one and no pooling after it.

    The usual network for 32x32 images with channels of 64 to 512; OpenOOD's ResNet18_32x32 is the same. It takes images
    (N, in_channels, H, W) to logits (N, num_classes).
    """
    network = resnet18(num_classes=num_classes)
    network.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network
