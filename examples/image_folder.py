"""A torchvision ResNet and a folder of your own images: python examples/image_folder.py [FOLDER_OF_CLASS_FOLDERS].

Without one, ellipses and lines are drawn into a folder. Negatives are what the classifier has never seen.
"""

import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, RandomSampler, random_split
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import v2

from gmm_torch import FailureDetector

READ = v2.Compose([v2.PILToTensor(), v2.Resize((32, 32)), v2.ToDtype(torch.float32, scale=True)])


def draw(kind: str) -> Image.Image:
    """An "ellipse" or a "line" on a noisy background."""
    picture = Image.fromarray(torch.randint(0, 60, (32, 32, 3), dtype=torch.uint8).numpy())
    x, y, r = (torch.tensor([10, 10, 4]) + torch.randint(0, 6, (3,))).tolist()
    getattr(ImageDraw.Draw(picture), kind)((x - r, y - r, x + r, y + r), fill=(220, 120, 60), width=3)
    return picture


def main(folder: str | None = None, n: int = 600, steps: int = 60) -> dict[str, float]:
    """Train, fit, calibrate; accuracy, false alarms, and the share of negatives that are refused."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as made:
        for kind in () if folder else ("ellipse", "line"):
            (Path(made) / kind).mkdir()
            for i in range(n):
                draw(kind).save(Path(made) / kind / f"{i}.png")
        images = ImageFolder(folder or made, READ)
        train, fit, calibrate, test = random_split(images, [0.4, 0.2, 0.2, 0.2])
        net = resnet18(num_classes=len(images.classes))
        optimiser = torch.optim.AdamW(net.parameters(), 1e-3)
        for x, y in DataLoader(train, 32, sampler=RandomSampler(train, num_samples=32 * steps)):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(net(x), y).backward()
            optimiser.step()
        update_bn(DataLoader(train, 64), net)  # so short a training leaves the running statistics behind
        detector = FailureDetector(net, n_components=4, views=1).fit(DataLoader(fit, 64))
        detector.calibrate(DataLoader(calibrate, 64))
        x, y = next(iter(DataLoader(test, len(test))))
    verdict, strange = detector(x), detector(1 - x)
    found = {"accuracy": (verdict.prediction == y), "refused": ~verdict.accept, "refused negatives": ~strange.accept}
    shares = {name: float(share.double().mean()) for name, share in found.items()}
    print(f"{images.classes}, {len(y)} test images, {len(calibrate)} calibrate, seed 0: {shares}")
    return shares


if __name__ == "__main__":
    main(*sys.argv[1:2])
