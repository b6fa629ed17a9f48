import pytest
import torch
from torch.utils.data import TensorDataset

from trainers.data.epochs import EpochSampler, LateLoader


def loader(n_workers: int) -> LateLoader:
    dataset = TensorDataset(torch.arange(40))
    sampler = EpochSampler(dataset, seed=1)
    return LateLoader(dataset, 4, sampler=sampler, generator=sampler.generator, num_workers=n_workers)


def order(batches) -> list[int]:
    return torch.cat([batch for (batch,) in batches]).tolist()


@pytest.mark.parametrize("n_workers", [0, 2])
def test_an_epoch_told_after_the_iterator_was_made_is_heard(n_workers):
    early, late = loader(n_workers), loader(n_workers)
    early.sampler.set_epoch(3)
    expected = order(early)
    batches = iter(late)
    late.sampler.set_epoch(3)
    assert order(batches) == expected
    assert sorted(expected) == list(range(40))
    assert len(late) == 10


def test_every_epoch_and_every_pass_has_an_order_of_its_own():
    some = loader(0)
    found = [order(some), order(some)]
    for epoch in (1, 2):
        some.sampler.set_epoch(epoch)
        found.append(order(some))
    assert len(set(map(tuple, found))) == 4
