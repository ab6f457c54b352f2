"""The command line as a whole."""

import pytest

from tests.builders.command import pseudoris


@pytest.mark.slow
def test_an_unknown_option_is_refused_with_exit_code_two():
    shown = pseudoris("annotate", "--presett", "tiny")
    assert shown.returncode == 2
    assert "Traceback" not in shown.stderr
