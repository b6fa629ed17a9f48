"""What has a name of its own registers where it is defined."""

import pytest

from gmm_torch.covariance import FAMILIES, get_family
from gmm_torch.covariance.diag import Diag
from gmm_torch.registry import register


def test_a_subclass_with_a_name_is_found_and_one_without_is_a_base():
    class Base(Diag):
        pass

    class Named(Base):
        name = "named"

    assert isinstance(get_family("named"), Named)
    assert isinstance(get_family("diag"), Diag)
    del FAMILIES["named"]


def test_a_name_that_is_taken_is_refused():
    table: dict[str, type] = {}
    register(table, type("One", (), {"name": "same"}))
    with pytest.raises(ValueError, match="name: expected one that is free; got 'same', the name of One"):
        register(table, type("Other", (), {"name": "same"}))
