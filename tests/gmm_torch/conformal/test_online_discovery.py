import importlib
import json

import pytest
import torch

from gmm_torch.conformal.online_discovery import METHODS, OnlineDiscoveries

P = torch.cat([torch.tensor([1e-4, 0.5, 1e-4, 0.7, 1e-4]), torch.rand(30, generator=torch.Generator().manual_seed(0))])


@pytest.mark.parametrize("method", METHODS)
def test_in_whatever_pieces_and_after_a_pause_the_decisions_are_the_same(method):
    whole = OnlineDiscoveries(0.1, 1e-4, method).update(P)
    assert whole.found[[0, 2, 4]].all()
    pieces = OnlineDiscoveries(0.1, 1e-4, method)
    first = pieces.update(P[:7])
    later = OnlineDiscoveries(0.1, 1e-4, method)
    later.load_state_dict(json.loads(json.dumps(pieces.state_dict())))
    second = later.update(P[7:])
    assert torch.equal(torch.cat([first.found, second.found]), whole.found)
    assert torch.equal(torch.cat([first.levels, second.levels]), whole.levels)
    assert (later.n_seen, later.n_found) == (35, int(whole.found.sum()))
    assert torch.equal(whole.found, P.double() <= whole.levels)


def test_where_no_p_value_can_be_small_enough_it_says_so():
    small = OnlineDiscoveries(0.1, 1 / 51)
    assert not small.update(P[5:6]).can_find
    assert "finds nothing more" in repr(small)
    assert OnlineDiscoveries(0.1, 1 / 5001).update(P[:1]).can_find


def test_what_promises_nothing_says_so():
    assert "FDR <= 0.1" in repr(OnlineDiscoveries(0.1, 1e-3))
    for method in ("lord", "saffron"):
        assert "promises nothing for p-values of one calibration set" in repr(OnlineDiscoveries(0.1, 1e-3, method))
        assert OnlineDiscoveries(0.1, 1e-3, method, conditional=True).promises
    assert "promises nothing" in repr(OnlineDiscoveries(0.1, 1e-3, "addis", conditional=True))


def test_bad_arguments_are_refused_in_words():
    with pytest.raises(ValueError, match="method: expected one of lond, lord, saffron, addis; got 'bonferroni'"):
        OnlineDiscoveries(0.1, 1e-3, "bonferroni")
    with pytest.raises(ValueError, match="smallest: expected"):
        OnlineDiscoveries(0.1, 0)
    online = OnlineDiscoveries(0.1, 1e-3)
    with pytest.raises(ValueError, match="p-values: expected numbers in"):
        online.update(torch.tensor([torch.nan]))
    assert online.n_seen == 0
    assert online.update(torch.empty(0)).found.shape == (0,)
    with pytest.raises(ValueError, match="state: expected one with the same q"):
        online.load_state_dict(OnlineDiscoveries(0.2, 1e-3).state_dict())
    with pytest.raises(ValueError, match="state: expected that of a OnlineDiscoveries"):
        online.load_state_dict({})


def test_without_the_library_one_error_says_what_to_install(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"pip install -e .\.\[streams\]"):
        OnlineDiscoveries(0.1, 1e-3)
