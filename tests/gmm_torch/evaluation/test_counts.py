import torch

from gmm_torch.evaluation.counts import class_counts


def test_counts_are_those_of_a_loop_with_empty_groups_and_classes_included():
    generator = torch.Generator().manual_seed(0)
    group, label = torch.randint(0, 4, (200,), generator=generator), torch.randint(1, 3, (200,), generator=generator)
    expected = torch.zeros(5, 4, dtype=torch.long)
    for g, c in zip(group.tolist(), label.tolist(), strict=True):
        expected[g, c] += 1
    assert torch.equal(class_counts(group, label, 5, 4), expected)


def test_no_inputs_are_counted_as_none():
    nothing = torch.empty(0, dtype=torch.long)
    assert torch.equal(class_counts(nothing, nothing, 2, 3), torch.zeros(2, 3, dtype=torch.long))
