"""Keys of inputs that a detector has learned from."""

import pytest
import torch

from gmm_torch.detector import seen_inputs
from gmm_torch.detector.seen_inputs import SeenInputs, n_among
from gmm_torch.mixture.sampling import row_keys

KEYS = row_keys(torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)), 0)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(seen_inputs, "MAX_FITTED", 1000)


def fitted(keys):
    seen = SeenInputs()
    seen.fit(keys)
    return seen


def test_all_are_known_again_where_all_are_kept():
    seen = fitted(KEYS[:2000])
    assert seen.share_fitted(KEYS[1940:2940]) == (0.06, "60")
    assert seen.share_fitted(KEYS[2000:]) == (0.0, "0")
    assert SeenInputs().share_fitted(KEYS) == (0.0, "0")


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


def test_a_sample_that_a_fit_has_drawn_tells_of_all():
    seen = fitted(KEYS[:1000])  # of the first 2,000
    share, words = seen.share_fitted(KEYS[:2000], sampled=0.5)
    assert (share, words) == (1.0, "about 100%")
    assert seen.share_fitted(KEYS[998:1400], sampled=0.5)[0] == 0


def test_a_fit_forgets_what_weights_were_learned_from():
    seen = fitted(KEYS[:3])
    seen.adapt(KEYS[3:10])
    assert (n_among(KEYS[:3, 1], seen.fitted), n_among(KEYS[3:10, 1], seen.reference)) == (3, 7)
    seen.fit(KEYS[:2])
    assert (len(seen.fitted), len(seen.reference)) == (2, 0)
