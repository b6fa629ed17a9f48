"""What has a name of its own registers where it is defined."""

import pytest

from gmm_torch.conformal.calibration import CALIBRATIONS, Calibration
from gmm_torch.mixture.covariance import FAMILIES, get_family
from gmm_torch.mixture.covariance.diag import Diag
from gmm_torch.scores import SCORES, Score


def test_a_subclass_with_a_name_is_found_and_one_without_is_a_base():
    class Base(Diag):
        pass

    class Named(Base):
        name = "named"

    assert isinstance(get_family("named"), Named)
    assert isinstance(get_family("diag"), Diag)
    del FAMILIES["named"]


@pytest.mark.parametrize(
    ("covariance_type", "message"),
    [
        (None, "expected one of diag, .*; got None"),
        (["full"], r"expected one of diag, .*; got \['full'\]"),
        ({}, "expected one of diag, .*; got None"),
        ({"name": "full", 3: 1, "rank": 2}, "expected options of 'full'"),
    ],
)
def test_what_names_no_family_is_refused_in_words(covariance_type, message):
    with pytest.raises(ValueError, match=f"covariance_type: {message}"):
        get_family(covariance_type)


@pytest.mark.parametrize(
    ("base", "table", "name"), [(Score, SCORES, "max_softmax"), (Calibration, CALIBRATIONS, "marginal")]
)
def test_a_score_or_calibration_takes_no_other_s_name_but_may_be_defined_again(base, table, name):
    before = dict(table)
    with pytest.raises(ValueError, match=f"expected one that is free; got '{name}', the name of"):
        type("Other", (base,), {"name": name})
    assert table == before
    for _ in range(2):  # a cell of a notebook, run again
        again = type("Own", (base,), {"name": "own"})
    assert table.pop("own") is again
