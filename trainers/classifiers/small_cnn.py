"""A convolutional network that trains in seconds on small images."""

from torch import Tensor, nn

from trainers.classifiers.pooling import GlobalAveragePool


def _block(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class SmallCNN(nn.Module):
    """Four convolution blocks, a global average and a linear head.

    The penultimate features have that `width`; the first block has half as many channels.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _block(in_channels, width // 2),
            nn.MaxPool2d(2),
            _block(width // 2, width),
            nn.MaxPool2d(2),
            _block(width, width),
            nn.MaxPool2d(2),
            _block(width, width),
        )
        self.pool = GlobalAveragePool()
        self.linear = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, in_channels, H, W), H and W at least 8, to logits (N, num_classes)."""
        return self.linear(self.pool(self.features(x)))
