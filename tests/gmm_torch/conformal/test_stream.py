import json

import pytest
import torch

from gmm_torch.conformal.stream import Judged, Stream


class Counter(Stream):
    settings = ("step",)
    state = ("total", "inner")

    def __init__(self, step=1):
        self.step, self.total, self.inner = step, torch.zeros(2, dtype=torch.float64), Judged(3)


def test_a_state_goes_through_json_and_comes_back():
    counter = Counter()
    counter.total += 0.1
    counter.inner.add([1, True])
    state = json.loads(json.dumps(counter.state_dict()))
    other = Counter()
    other.load_state_dict(state)
    assert torch.equal(other.total, counter.total)
    assert other.total.dtype == torch.float64
    assert other.inner.take(torch.tensor([0]), torch.tensor([False])) == [([1, True], False)]
    assert counter.inner.waiting  # the state is a copy
    assert state["inner"]["waiting"]


def test_a_state_of_other_settings_or_another_class_changes_nothing():
    counter = Counter()
    for state in ({}, Counter(2).state_dict(), {**Counter().state_dict(), "inner": Judged(4).state_dict()}):
        with pytest.raises(ValueError, match="state: expected"):
            counter.load_state_dict({**state, "total": [5.0, 5.0]} if state else state)
    assert counter.total.tolist() == [0, 0]


def test_labels_are_taken_once_and_in_their_order():
    judged = Judged(3)
    for value in "abcd":
        judged.add(value)
    labels = torch.tensor([True, False])
    for wrong, message in (
        ([1, 4], "0 to 3; got 4"),
        ([-1, 1], "got -1"),
        ([0, 1], "latest 3 inputs at most; got another one for input 0"),
        ([2, 2], "got another one for input 2"),
    ):
        with pytest.raises(ValueError, match=message):
            judged.take(torch.tensor(wrong), labels)
    assert judged.take(torch.tensor([3, 1]), labels) == [("d", True), ("b", False)]
    with pytest.raises(ValueError, match="input 3, which has one"):
        judged.take(torch.tensor([2, 3]), labels)
    with pytest.raises(ValueError, match="labels: expected one bool per index"):
        judged.take(torch.tensor([2]), torch.tensor([1]))
    with pytest.raises(ValueError, match="memory: expected at least 1"):
        Judged(0)
