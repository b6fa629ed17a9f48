from itertools import combinations, product

import pytest
import torch

from trainers.data.errors import OverlapError
from trainers.data.splits import balanced_subset, check_disjoint, split_indices


@pytest.mark.parametrize(
    ("n", "calibration", "validation", "mixture"), list(product((60, 1438), (2, 10), (3, 20), (2, 5)))
)
def test_the_splits_are_disjoint_and_cover_all(n: int, calibration: int, validation: int, mixture: int) -> None:
    indices = split_indices(n, calibration_every=calibration, validation_every=validation, mixture_every=mixture)
    for first, second in combinations(indices.values(), 2):
        assert not set(first.tolist()) & set(second.tolist())
    assert torch.equal(torch.cat(list(indices.values())).sort().values, torch.arange(n))


def test_the_shares_are_those_counted_by_hand() -> None:
    indices = split_indices(24, calibration_every=10, validation_every=10, mixture_every=5)
    assert indices["calibration"].tolist() == [0, 10, 20]
    # left: 1-9, 11-19, 21-23; of these the 1st, 11th and 21st
    assert indices["validation"].tolist() == [1, 12, 23]
    # left: 2-9, 11, 13-19, 21, 22; of these the 1st, 6th, 11th and 16th
    assert indices["mixture"].tolist() == [2, 7, 14, 19]
    assert len(indices["train"]) == 24 - 10


def test_without_a_share_the_mixture_gets_the_train_images() -> None:
    indices = split_indices(100, mixture_every=None)
    assert torch.equal(indices["mixture"], indices["train"])
    check_disjoint(indices, may_overlap=frozenset({"train", "mixture"}))
    with pytest.raises(OverlapError, match=r"train and mixture|mixture and train"):
        check_disjoint(indices)


def test_overlap_with_any_other_split_is_an_error() -> None:
    indices = {"train": torch.tensor([1, 2]), "mixture": torch.tensor([1]), "calibration": torch.tensor([2])}
    with pytest.raises(OverlapError, match="train and calibration splits: expected no image in both; got 1: give"):
        check_disjoint(indices, may_overlap=frozenset({"train", "mixture"}))
    with pytest.raises(OverlapError, match="expected each image once; got 1 images twice"):
        check_disjoint({"train": torch.tensor([3, 3])})


@pytest.mark.parametrize("name", ["calibration_every", "validation_every", "mixture_every"])
def test_a_share_out_of_range_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected an integer >= 2.*got 1"):
        split_indices(100, **{name: 1})


def test_too_few_images_name_the_empty_split() -> None:
    with pytest.raises(ValueError, match=r"got 2, of which none is left for .*train.*: give more"):
        split_indices(2)


def test_the_labelled_subset_is_balanced_and_chosen_by_the_seed() -> None:
    targets = torch.arange(3).repeat(50)
    chosen = balanced_subset(targets, 30, 3, seed=0)
    assert torch.bincount(targets[chosen]).tolist() == [10, 10, 10]
    assert torch.equal(chosen, chosen.unique())
    assert torch.equal(chosen, balanced_subset(targets, 30, 3, seed=0))
    assert not torch.equal(chosen, balanced_subset(targets, 30, 3, seed=1))


def test_too_few_labels_say_how_many_there_can_be() -> None:
    targets = torch.tensor([0] * 9 + [1] * 4)
    with pytest.raises(ValueError, match="got 4 of class 1: choose at most n_labelled=8"):
        balanced_subset(targets, 10, 2, seed=0)
    for wrong in (0, 3, -2):
        with pytest.raises(ValueError, match="multiple of the 2 classes"):
            balanced_subset(targets, wrong, 2, seed=0)
