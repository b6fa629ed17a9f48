from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed
from torch.utils.data import DataLoader, DistributedSampler

from trainers.data.augmentation import Augmentation, StrongAugmentation
from trainers.data.datamodule import ImageDataModule
from trainers.data.digits import digits
from trainers.data.errors import DataError
from trainers.data.folder import image_folder
from trainers.data.images import ImageArray, ImageShape
from trainers.data.unlabelled import Unlabelled

WriteFolder = Callable[..., list[Path]]


def module(**options: Any) -> ImageDataModule:
    return ImageDataModule(digits, root=None, **options)


def all_of(loader: DataLoader[Any]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def test_the_loaders_hand_out_the_images_of_their_indices_in_order() -> None:
    data = module(batch_size=50)
    data.prepare_data()
    data.setup("fit")
    for split, loader, images in (
        ("validation", data.val_dataloader(), digits("train")),
        ("mixture", data.mixture_dataloader(), digits("train")),
        ("calibration", data.calibration_dataloader(), digits("train")),
        ("test", data.test_dataloader(), digits("test")),
    ):
        batches, labels = all_of(loader)
        chosen = data.indices[split]
        assert batches.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert torch.equal(batches, images.images[chosen].float() / 255)
        assert torch.equal(labels, images.targets[chosen])
        assert torch.equal(all_of(loader)[0], batches)


def test_what_the_data_module_knows() -> None:
    data = module(num_classes=10, image_shape=[1, 8, 8], mean=[0.3], std=[0.4])
    assert data.num_classes == 10
    assert data.image_shape == (1, 8, 8)
    assert data.class_names == [str(i) for i in range(10)]
    assert data.mixture_role == "own"


@pytest.mark.parametrize("mixture_every", [2, 5, None])
@pytest.mark.parametrize("n_labelled", [None, 100])
@pytest.mark.parametrize("calibration_every", [5, 10])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_splits_are_disjoint_and_calibration_is_fixed(
    mixture_every: int | None, n_labelled: int | None, calibration_every: int, seed: int
) -> None:
    data = module(mixture_every=mixture_every, n_labelled=n_labelled, calibration_every=calibration_every, seed=seed)
    indices = {name: set(values.tolist()) for name, values in data.indices.items() if name != "test"}
    shared = {"train", "mixture"} if mixture_every is None else None
    for first, second in combinations(indices, 2):
        if {first, second} != shared:
            assert not indices[first] & indices[second]
    assert indices["calibration"] == set(range(0, 1438, calibration_every))
    assert set().union(*indices.values()) == set(range(1438))
    if mixture_every is None:
        assert data.mixture_role == "shared"
        assert indices["train"] <= indices["mixture"]
        assert (indices["train"] == indices["mixture"]) == (n_labelled is None)


def test_labels_are_kept_balanced_and_the_other_images_join_the_mixture() -> None:
    whole, some = module(), module(n_labelled=200)
    labels = all_of(some.train_dataloader())[1]
    assert torch.bincount(labels).tolist() == [20] * 10
    assert len(some.indices["mixture"]) == len(whole.indices["mixture"]) + len(whole.indices["train"]) - 200
    assert torch.equal(some.indices["validation"], whole.indices["validation"])
    assert not torch.equal(some.indices["train"], module(n_labelled=200, seed=1).indices["train"])
    with pytest.raises(ValueError, match="at most n_labelled="):
        module(n_labelled=5000).setup()


def test_the_seed_decides_the_order_of_the_train_loader() -> None:
    first, again, other = (all_of(module(seed=seed).train_dataloader())[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    in_order = digits("train").images[module().indices["train"]].float() / 255
    assert not torch.equal(first, in_order)
    assert torch.equal(first.flatten(1).sum(1).sort().values, in_order.flatten(1).sum(1).sort().values)


def test_a_last_batch_of_one_is_dropped_and_no_other() -> None:
    n = len(module().indices["train"])
    assert n == 983
    assert len(all_of(module(batch_size=491).train_dataloader())[0]) == n - 1
    assert len(all_of(module(batch_size=100).train_dataloader())[0]) == n


def test_only_the_train_loader_is_augmented() -> None:
    plain, augmented = module(), module(augment=Augmentation(crop_padding=2, horizontal_flip=True))
    images, labels = all_of(augmented.train_dataloader())
    assert images.shape == (983, 1, 8, 8)
    assert not torch.equal(images, all_of(plain.train_dataloader())[0])
    assert torch.equal(labels, all_of(plain.train_dataloader())[1])
    for name in ("val_dataloader", "mixture_dataloader", "calibration_dataloader", "test_dataloader"):
        assert torch.equal(all_of(getattr(augmented, name)())[0], all_of(getattr(plain, name)())[0])


def test_a_flip_mirrors_and_a_crop_shifts() -> None:
    image = torch.arange(1.0, 65.0).view(1, 8, 8) / 64
    flip = Augmentation(horizontal_flip=True).transform((1, 8, 8))
    crop = Augmentation(crop_padding=1).transform((1, 8, 8))
    assert flip is not None
    assert crop is not None
    assert Augmentation().transform((1, 8, 8)) is None
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1))
    shifts = {padded[:, i : i + 8, j : j + 8].numpy().tobytes() for i in range(3) for j in range(3)}
    assert {flip(image).numpy().tobytes() for _ in range(30)} == {
        image.numpy().tobytes(),
        image.flip(2).contiguous().numpy().tobytes(),
    }
    assert {crop(image).contiguous().numpy().tobytes() for _ in range(200)} == shifts
    with pytest.raises(ValueError, match="crop_padding: expected"):
        Augmentation(crop_padding=-1)


def test_the_fingerprint_tells_other_images_labels_and_splits_apart() -> None:
    def changed(split: str, what: str) -> ImageArray:
        images = digits(split)
        if what == "pixels":
            images.images[0] += 1
        else:
            images.targets[0] += 1
        return images

    prints = [
        module().fingerprint(),
        module(calibration_every=5).fingerprint(),
        module(n_labelled=100).fingerprint(),
        module(n_labelled=100, seed=1).fingerprint(),
        ImageDataModule(partial(changed, what="pixels"), root=None).fingerprint(),
        ImageDataModule(partial(changed, what="labels"), root=None).fingerprint(),
    ]
    assert len(set(prints)) == len(prints)
    assert module(batch_size=7, seed=3).fingerprint() == prints[0]


def test_a_folder_has_one_fingerprint_cached_or_not(tmp_path: Path, write_folder: WriteFolder) -> None:
    write_folder(tmp_path, n=40)
    prints = {
        ImageDataModule(partial(image_folder, image_shape=(3, 8, 8), cache=cache), root=tmp_path).fingerprint()
        for cache in (False, True)
    }
    assert len(prints) == 1


def test_processes_share_the_mixture_images_without_padding_or_repetition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = module(batch_size=50)
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 4)
    shares = []
    for rank in range(4):
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        loader = data.mixture_dataloader()
        assert isinstance(loader.sampler, DistributedSampler)  # or Lightning would put one of its own that pads
        shares.append(all_of(loader)[0])
    assert [len(share) for share in shares] == [62, 62, 61, 61]
    expected = digits("train").images[data.indices["mixture"]].float() / 255
    for rank, share in enumerate(shares):
        assert torch.equal(share, expected[rank::4])


def test_fewer_mixture_images_than_processes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 1000)
    with pytest.raises(DataError, match="at least one for each of 1000 processes; got 246: start fewer"):
        module().mixture_dataloader()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected an integer >= 1; got 0"),
        ({"num_workers": -1}, "num_workers: expected an integer >= 0"),
        ({"calibration_every": 1}, "calibration_every: expected an integer >= 2"),
        ({"image_shape": [8, 8]}, "image_shape: expected"),
        ({"mean": [0.1, 0.2]}, "mean: expected one or three values"),
        ({"mean": [0.1], "std": [0.1], "image_shape": [3, 8, 8]}, "mean: expected 3 values"),
        ({"std": [0.0]}, "std: expected numbers > 0"),
    ],
)
def test_options_out_of_range_are_told_before_data_is_read(options: dict[str, Any], message: str) -> None:
    def source(**_: object) -> ImageArray:
        raise AssertionError("data was read")

    with pytest.raises(ValueError, match=message):
        ImageDataModule(source, **options)


def test_a_config_that_contradicts_the_data_is_an_error() -> None:
    with pytest.raises(DataError, match=r"num_classes: expected 10, .*; got 7: set data\.num_classes=10, or"):
        module(num_classes=7).setup()
    with pytest.raises(DataError, match=r"expected \[1,8,8\], .* got \[1,28,28\]: set data.image_shape=\[1,8,8\]$"):
        module(image_shape=[1, 28, 28]).setup()


def test_images_and_labels_must_match() -> None:
    with pytest.raises(ValueError, match=r"targets: expected \(3,\)"):
        ImageArray(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.zeros(2))
    with pytest.raises(ValueError, match="images: expected uint8"):
        ImageArray(torch.zeros(3, 1, 8, 8, dtype=torch.int64), torch.zeros(3))


def test_a_batch_by_one_call_is_the_items_one_by_one() -> None:
    images = digits("test")
    for (image, label), i in zip(images.__getitems__([5, 2]), (5, 2), strict=True):
        assert torch.equal(image, images[i][0])
        assert label == images[i][1]


def test_with_unlabelled_images_a_batch_holds_both_and_the_longer_loader_counts() -> None:
    unlabelled = Unlabelled(ratio=4, views=["weak", "strong", "weak"])
    data = module(n_labelled=50, batch_size=25, unlabelled=unlabelled, augment=Augmentation(crop_padding=1))
    batches = [batch for batch, *_ in data.train_dataloader()]
    assert len(batches) == 10  # 983 images by 100
    assert sum(len(batch["unlabelled"][0]) for batch in batches) == len(data.unlabelled_indices) == 983
    for batch in batches:
        images, labels = batch["labelled"]
        assert images.shape == (25, 1, 8, 8)
        assert set(labels.tolist()) <= set(range(10))
        assert len(batch["unlabelled"]) == 3
        for view in batch["unlabelled"]:
            assert view.shape[1:] == (1, 8, 8)
            assert 0 <= view.min() <= view.max() <= 1


def test_views_are_of_the_same_images_and_drawn_anew() -> None:
    unlabelled = Unlabelled(views=["weak", "weak", "strong"])
    still = module(n_labelled=50, unlabelled=unlabelled)
    first, second, strong = next(iter(still.unlabelled_dataloader(unlabelled)))
    assert torch.equal(first, second)  # nothing is weakly augmented
    assert not torch.equal(first, strong)
    moving = module(n_labelled=50, unlabelled=unlabelled, augment=Augmentation(crop_padding=2))
    first, second, _ = next(iter(moving.unlabelled_dataloader(unlabelled)))
    assert not torch.equal(first, second)


def test_unlabelled_images_are_those_that_could_have_been_labelled() -> None:
    for mixture_every in (5, None):
        some = module(n_labelled=50, mixture_every=mixture_every)
        assert torch.equal(some.unlabelled_indices, module(mixture_every=mixture_every).indices["train"])
        used = set(some.unlabelled_indices.tolist())
        assert set(some.indices["train"].tolist()) < used
        assert not used & set(some.indices["calibration"].tolist())
        assert not used & set(some.indices["validation"].tolist())


def test_options_of_unlabelled_images_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="ratio: expected an integer >= 1"):
        Unlabelled(ratio=0)
    for views in ([], ["bold"]):
        with pytest.raises(ValueError, match="views: expected a list of weak and strong"):
            Unlabelled(views=views)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_the_strong_augmentation_changes_images_of_every_kind_within_their_range(shape: ImageShape) -> None:
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    strong = StrongAugmentation().transform(Augmentation(horizontal_flip=True), shape)
    drawn = torch.stack([strong(image) for _ in range(60)])
    assert drawn.shape[1:] == shape
    assert drawn.isfinite().all()
    assert 0 <= drawn.min() <= drawn.max() <= 1
    assert len({each.numpy().tobytes() for each in drawn}) > 50
    covered = (StrongAugmentation(0, 0, cutout=0.2).transform(Augmentation(), shape)(image) != image).float().mean()
    largest = round((0.2 * shape[1] * shape[2]) ** 0.5)  # side of the square, in whole pixels
    assert 0 < covered <= largest**2 / (shape[1] * shape[2])


def test_options_of_the_strong_augmentation_out_of_range_are_refused() -> None:
    for options, message in (
        ({"n_operations": -1}, "n_operations: expected"),
        ({"magnitude": 31}, "magnitude: expected"),
        ({"cutout": 1.0}, "cutout: expected"),
    ):
        with pytest.raises(ValueError, match=message):
            StrongAugmentation(**options)  # type: ignore[arg-type]
