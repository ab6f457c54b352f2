"""Numbers are written for a person."""

import logging

import pytest

from pseudoris.cli.console import (
    PrintableFormatter,
)
from pseudoris.schemas.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain: [bold] naïve 写真\n\tnext line", "plain: [bold] naïve 写真\n\tnext line"),
        ("\x1b]0;owned\x07.tar", r"\x1b]0;owned\x07.tar"),
        ("\x9b31m\r\x00\x7f", r"\x9b31m\r\x00\x7f"),
        ("a\u202egpj.tar", r"a\u202egpj.tar"),
        ("caf\udce9.tar", r"caf\udce9.tar"),
    ],
)
def test_a_strangers_words_do_not_steer_the_terminal(text, shown, capsys):
    assert printable(text) == shown
    record = logging.LogRecord("x", logging.WARNING, "x.py", 1, "%s", (text,), None)
    assert PrintableFormatter("%(message)s").format(record) == shown
