"""What a job's terminal shows of warnings."""

import warnings

from gmm_torch import ComponentsWarning
from trainers.run.job import quieten


def test_a_warning_is_its_message_alone_and_told_once(caplog, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        quieten()
        for number in (1, 2, 1):
            warnings.warn(f"too few, {number}", ComponentsWarning, stacklevel=1)
        warnings.warn("this fit will run with no optimizer", stacklevel=1)
    assert caplog.messages == ["too few, 1", "too few, 2"]
    assert capsys.readouterr().err == ""
