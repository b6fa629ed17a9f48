"""Four small classifiers of scikit-learn's digits: residual, transformer, of text and of rows."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

SPLIT = {"train": 500, "fit": 500, "calibration": 399, "test": 150}
N_WORDS = 17  # a text is an image read pixel by pixel: gray value, as a word


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(torch.relu(self.norm(self.first(x)))))


class Residual(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 3, padding=1),
            Block(16),
            nn.MaxPool2d(2),
            Block(16),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 10),
        )


class Encoder(nn.Module):
    """Tokens (N, T, D) with positions, two layers of attention, the mean, a head."""

    def __init__(self, n_tokens: int, width: int = 24) -> None:
        super().__init__()
        self.positions = nn.Parameter(0.1 * torch.randn(n_tokens, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True) for _ in range(2)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens.mean(1))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 24, 2, stride=2)
        self.encoder = Encoder(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(self.patches(x).flatten(2).transpose(1, 2))


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(N_WORDS, 24)
        self.encoder = Encoder(16)

    def forward(self, words: Tensor) -> Tensor:
        return self.encoder(self.words(words))


class Rows(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))


NETWORKS: dict[str, type[nn.Module]] = {
    "residual": Residual,
    "transformer": Transformer,
    "text": Text,
    "rows": Rows,
}


def as_input(network: str, images: Tensor) -> Tensor:
    """What a network takes of images (N, 1, 8, 8) in [0, 1]."""
    if network == "text":
        return (F.avg_pool2d(images, 2).flatten(1) * (N_WORDS - 1)).long()
    return images.flatten(1) if network == "rows" else images


def splits() -> dict[str, tuple[Tensor, Tensor]]:
    """Name -> images (n, 1, 8, 8) float32 in [0, 1] and labels (n,) int64; "odd" are images of other kinds."""
    found = load_digits()
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(found.images), generator=generator)[: sum(SPLIT.values())]
    images = torch.from_numpy(found.images).float()[order, None] / 16
    labels = torch.from_numpy(found.target).long()[order]
    sizes = list(SPLIT.values())
    parts = dict(zip(SPLIT, zip(images.split(sizes), labels.split(sizes), strict=True), strict=True))
    test = parts["test"][0]
    odd = torch.cat([torch.rand(30, 1, 8, 8, generator=generator), test[:30].rot90(1, (2, 3)), test[:10] * 0.3])
    parts["odd"] = odd, torch.zeros(len(odd), dtype=torch.long)
    return parts


def train(name: str) -> nn.Module:
    """A network with weights that a short training leaves; some test images are classified wrongly."""
    torch.manual_seed(0)
    net = NETWORKS[name]()
    images, labels = splits()["train"]
    x = as_input(name, images)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for step in range(300):
        index = torch.randint(len(x), (64,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        F.cross_entropy(net(x[index]), labels[index]).backward()
        optimizer.step()
    return net.eval()
