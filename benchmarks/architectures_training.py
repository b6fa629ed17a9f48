"""Trains the networks of `architectures.py`, one after another, and keeps their weights in the cache."""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from architectures_data import Data, Folders, load
from architectures_networks import CIFAR, FASHION, RECIPES, Recipe, build
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gmm_torch.files import atomic_path

CROP = 3  # pixels by which an image is moved at most, on each axis; half of it for images of 28 pixels


def weights_of(name: str, folders: Folders) -> Path:
    """Where a network's weights are, or will be."""
    recipe = RECIPES[name]
    return folders.given / recipe.given if recipe.given else folders.cache / "weights" / f"{name}.safetensors"


def trained(name: str, folders: Folders) -> nn.Module:
    """The network with its weights, in evaluation mode."""
    classifier = build(name)
    state = load_file(weights_of(name, folders))
    (classifier[1] if RECIPES[name].given else classifier).load_state_dict(state)  # type: ignore[index]
    return classifier.requires_grad_(False)


def as_input(x: Tensor) -> Tensor:
    """Bytes to [0, 1]; the rest as it is."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


def augmented(x: Tensor, data: str, generator: torch.Generator) -> Tensor:
    """A training batch: images moved at random and, photographs and clothes, mirrored at random."""
    if data not in (CIFAR, FASHION):
        return x
    n, _, height, width = x.shape
    reach = CROP if data == CIFAR else 1
    padded = nn.functional.pad(x, (reach,) * 4)
    top, left = (torch.randint(0, 2 * reach + 1, (n, 1), generator=generator) for _ in range(2))
    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    columns = torch.where(torch.rand(n, 1, generator=generator) < 0.5, columns.flip(1), columns)
    moved = padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # (N, H, W, C)
    return moved.permute(0, 3, 1, 2)  # channels last in memory


def train(name: str, data: Data, recipe: Recipe, seed: int = 0) -> nn.Module:
    """The network of a recipe, trained."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    classifier = build(name).train()
    if data.train.dim() == 4:
        classifier = classifier.to(memory_format=torch.channels_last)
    decayed = [p for p in classifier.parameters() if p.dim() > 1]
    other = [p for p in classifier.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.decay}, {"params": other, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr)
    per_epoch = len(data.train) // recipe.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.lr, total_steps=recipe.epochs * per_epoch, pct_start=0.2
    )
    started = time.perf_counter()
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(data.train), generator=generator)
        total = 0.0
        for step in range(per_epoch):
            index = order[step * recipe.batch : (step + 1) * recipe.batch]
            x = as_input(augmented(data.train[index], recipe.data, generator))
            loss = nn.functional.cross_entropy(classifier(x), data.train_labels[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        if not math.isfinite(total):
            raise SystemExit(f"{name}: the loss is not finite in epoch {epoch}")
        minutes = (time.perf_counter() - started) / 60
        print(f"{name}: epoch {epoch + 1}/{recipe.epochs}, loss {total / per_epoch:.3f}, {minutes:.1f} min", flush=True)
    return classifier.eval()


@torch.no_grad()
def accuracy(classifier: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Share of rightly classified inputs."""
    right = [
        (classifier(as_input(part)).argmax(1) == y) for part, y in zip(x.split(250), labels.split(250), strict=True)
    ]
    return float(torch.cat(right).double().mean())


def train_all(names: Sequence[str], folders: Folders) -> None:
    """Those whose weights are not there yet."""
    for name in names:
        path = weights_of(name, folders)
        recipe = RECIPES[name]
        if recipe.given or path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        data = load(recipe.data, folders)
        started = time.perf_counter()
        classifier = train(name, data, recipe)
        about = {
            "accuracy": accuracy(classifier, data.test, data.test_labels),
            "parameters": sum(p.numel() for p in classifier.parameters()),
            "minutes": round((time.perf_counter() - started) / 60, 1),
        }
        print(f"{name}: {about}", flush=True)
        with atomic_path(path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(about) + "\n")
        with atomic_path(path) as temporary:
            save_file({key: value.contiguous() for key, value in classifier.state_dict().items()}, temporary)
