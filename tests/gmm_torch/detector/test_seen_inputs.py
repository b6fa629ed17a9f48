"""Keys of inputs that a detector has learned from."""

import pytest
import torch

from gmm_torch.detector import memory
from gmm_torch.detector.memory import SeenInputs
from gmm_torch.mixture.sampling import row_keys

KEYS = row_keys(torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)), 0)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(memory, "MAX_FITTED", 1000)


def fitted(keys):
    seen = SeenInputs()
    seen.fit(keys)
    return seen


@pytest.mark.usefixtures("few")
def test_of_many_inputs_a_sample_is_kept_that_is_the_same_in_any_order():
    seen = fitted(KEYS)
    assert len(seen.fitted) == 1000
    assert torch.equal(seen.fitted, fitted(KEYS.flip(0)).fitted)
    assert seen.fitted.untyped_storage().nbytes() == 8000


@pytest.mark.usefixtures("few")
def test_a_sample_tells_the_share_whatever_is_repeated():
    blank = KEYS[KEYS[:, 1].argmin()]
    seen = fitted(torch.cat([KEYS[:3000], blank.expand(3000, 2)]))
    assert seen.share_fitted(KEYS[:3000]) == (1.0, "about 100%")
    share, words = seen.share_fitted(KEYS[2500:3500])
    assert share == pytest.approx(0.5, abs=0.15)  # of about 333 that a sample tells of: five deviations
    assert words == f"about {share:.0%}"
    assert seen.share_fitted(torch.cat([blank[None], KEYS[3000:3020]]))[0] == 0  # one is no share
