"""Keys of inputs that a detector has learned from."""

import pytest
import torch

from gmm_torch.detection import seen_inputs
from gmm_torch.detection.seen_inputs import MAX_KEYS, SeenInputs, n_among
from gmm_torch.sampling import row_keys

KEYS = row_keys(torch.randn(4 * MAX_KEYS, 2, generator=torch.Generator().manual_seed(0)), 0)


def test_of_many_inputs_a_sample_is_kept_that_is_the_same_in_any_order():
    seen, other = SeenInputs(), SeenInputs()
    seen.fit(KEYS)
    other.fit(KEYS.flip(0))
    assert len(seen.fitted) == MAX_KEYS
    assert torch.equal(seen.fitted, other.fitted)
    assert n_among(KEYS[:8000], seen.fitted) / 2000 == pytest.approx(1, abs=0.1)  # a quarter; five deviations
    assert seen.fitted.untyped_storage().nbytes() == 8 * MAX_KEYS


def test_a_fit_forgets_what_weights_were_learned_from(monkeypatch):
    monkeypatch.setattr(seen_inputs, "MAX_KEYS", 5)
    seen = SeenInputs()
    seen.fit(KEYS[:3])
    seen.adapt(KEYS[3:10])
    assert (n_among(KEYS[:3], seen.fitted), n_among(KEYS[3:10], seen.reference)) == (3, 5)
    seen.fit(KEYS[:2])
    assert (len(seen.fitted), len(seen.reference)) == (2, 0)
