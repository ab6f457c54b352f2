"""The command line as a whole."""

from importlib import metadata

import pytest

from tests.builders.command import pseudoris


@pytest.mark.slow
def test_an_unknown_option_is_refused_with_exit_code_two():
    shown = pseudoris("annotate", "--presett", "tiny")
    assert shown.returncode == 2
    assert "Traceback" not in shown.stderr


@pytest.mark.slow
def test_the_version_is_the_packages():
    shown = pseudoris("--version")
    assert (shown.returncode, shown.stdout) == (0, f"pseudoris {metadata.version('pseudoris')}\n")
