"""Numbers are written for a person."""

import pytest

from cli.console import format_bytes, format_seconds


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * 2**30, "5.0 GiB"), (2**60, "1024.0 PiB")],
)
def test_sizes_have_a_binary_unit(size_bytes, text):
    assert format_bytes(size_bytes) == text


@pytest.mark.parametrize(("seconds", "text"), [(4.21, "4.2 s"), (200, "3 min 20 s"), (18_420, "5 h 07 min")])
def test_durations_have_the_unit_that_fits(seconds, text):
    assert format_seconds(seconds) == text
