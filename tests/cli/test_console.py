"""Numbers are written for a person."""

import io
import logging
import sys
from pathlib import Path

import pytest
from rich.console import Console

from pseudoris.cli.console import (
    PrintableFormatter,
    command,
    format_bytes,
    format_seconds,
    path_lines,
)
from pseudoris.schemas.printable import printable


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * 2**30, "5.0 GiB"), (2**60, "1024.0 PiB")],
)
def test_sizes_have_a_binary_unit(size_bytes, text):
    assert format_bytes(size_bytes) == text


@pytest.mark.parametrize(("seconds", "text"), [(4.21, "4.2 s"), (200, "3 min 20 s"), (18_420, "5 h 07 min")])
def test_durations_have_the_unit_that_fits(seconds, text):
    assert format_seconds(seconds) == text


def test_paths_stay_on_one_line_however_narrow_the_console():
    console = Console(file=io.StringIO(), width=20)
    console.print(path_lines("tables", {"masks": "a folder/" * 9, "images": "b"}), soft_wrap=True)
    assert console.file.getvalue().splitlines() == ["tables", f"masks   {'a folder/' * 9}", "images  b"]


def test_a_command_can_be_pasted(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert command("verify", "my run") == "pseudoris verify 'my run'"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(Path(sys.executable).parents[1])
    assert command("verify", "run") == "bin/pseudoris verify run"


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
