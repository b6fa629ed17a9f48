"""Which inputs a loader gives, and what two have in common."""

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from gmm_torch.lightning.sources import Source

X = torch.arange(20.0)[:, None]
DATA = TensorDataset(X)


def given(source):
    return torch.cat([batch[0] for batch in source.batches()]).flatten().tolist()


@pytest.mark.parametrize(
    "options",
    [{}, {"shuffle": True, "drop_last": True}, {"sampler": RandomSampler(DATA)}],
    ids=["in order", "shuffled", "sampler"],
)
def test_each_input_comes_once_and_in_order(options):
    assert given(Source.of(DataLoader(DATA, 8, **options))) == X.flatten().tolist()


def test_a_part_of_the_data_set_is_that_part():
    source = Source.of(DataLoader(DATA, 8, sampler=SubsetRandomSampler([3, 1, 2])))
    assert sorted(given(source)) == [1, 2, 3]
    assert given(Source.of(DataLoader(Subset(DATA, [4, 9]), 8))) == [4, 9]


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(DATA, 8, sampler=WeightedRandomSampler([1.0] * 20, 20)),
        DataLoader(DATA, 8, sampler=RandomSampler(DATA, num_samples=5)),
        DataLoader(DATA, batch_sampler=BatchSampler(RandomSampler(DATA), 4, False)),
        X.split(5),
    ],
    ids=["weighted", "some", "batch sampler", "batches"],
)
def test_others_are_read_as_they_are(loader):
    assert Source.of(loader).rows is None
    source = Source.of(loader, 2)
    assert len(list(source.batches())) == min(2, len(loader))


def test_a_limit_takes_the_first_or_of_a_loader_that_shuffles_the_same_random_part():
    assert given(Source.of(DataLoader(DATA, 4), 2)) == list(range(8))
    shuffled = given(Source.of(DataLoader(DATA, 4, shuffle=True), 2))
    assert len(shuffled) == 8
    assert shuffled == given(Source.of(DataLoader(DATA, 4, shuffle=True), 2)) != list(range(8))
    assert len(given(Source.of(DataLoader(DATA, 4, shuffle=True, drop_last=True), 5))) == 20


def test_a_split_is_by_place_and_leaves_nothing_out():
    held_out, rest = Source.of(DataLoader(DATA, 8, shuffle=True)).split(3)
    assert given(held_out) == list(range(0, 20, 3))
    assert sorted(given(held_out) + given(rest)) == list(range(20))
    assert held_out.n_shared(rest) == 0


def test_inputs_in_common_are_found_through_subsets_and_through_data_sets_of_the_same_tensors():
    whole = Source.of(DataLoader(DATA, 8))
    inner = Source.of(DataLoader(Subset(Subset(DATA, range(5, 15)), [0, 9]), 8))
    assert inner.n_shared(whole) == 2
    assert inner.n_shared(Source.of(DataLoader(Subset(DATA, [14, 15]), 8))) == 1
    assert inner.n_shared(Source.of(DataLoader(TensorDataset(X), 8))) == 2
    assert inner.n_shared(Source.of(DataLoader(TensorDataset(X.clone()), 8))) == 0
    batches = X.split(5)
    assert Source.of(batches).n_shared(Source.of(batches)) == 1
    assert Source.of(batches).n_shared(whole) == 0
