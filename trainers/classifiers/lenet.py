"""LeNet-5 for images of any size from 8x8."""

from collections.abc import Sequence

from torch import Tensor, nn


class LeNet(nn.Module):
    """Two 5x5 convolutions and three linear layers, with ReLU and max pooling.

    Both convolutions are padded, so that 8x8 images survive the two poolings.

    Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998,
    figure 2.

    Args:
        num_classes: C.
        in_channels: of the images.
        image_size: height and width of the images, in pixels; one number for both.

    Raises:
        ValueError: if a side of the image is shorter than 4 pixels.
    """

    def __init__(self, num_classes: int, in_channels: int = 1, image_size: int | Sequence[int] = 28) -> None:
        super().__init__()
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if min(height, width) < 4:
            raise ValueError(
                f"LeNet: expected images of at least 4 x 4 pixels; got {height} x {width}: choose another classifier"
            )
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 6, kernel_size=5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, kernel_size=5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * (height // 4) * (width // 4), 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
        )
        self.linear = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, in_channels, *image_size) to logits (N, num_classes)."""
        return self.linear(self.features(x))
