"""The two consoles, and how numbers are written for a person."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

# Without markup and emoji: square brackets in keys, paths and captions are no styles, and `:smile:` is no picture.
stdout = Console(highlight=False, markup=False, emoji=False)
stderr = Console(stderr=True, highlight=False, markup=False, emoji=False)

# Control characters, signs of direction and the like, lone surrogates (which no terminal can be sent), line ends.
_CONTROL_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def format_bytes(size_bytes: float) -> str:
    """Return a size with three digits at most and a binary unit, `1.4 GiB`."""
    unit = 0
    while size_bytes >= 1024 and unit < len(_BINARY_UNITS) - 1:
        size_bytes /= 1024
        unit += 1
    return f"{size_bytes:.0f} {_BINARY_UNITS[0]}" if unit == 0 else f"{size_bytes:.1f} {_BINARY_UNITS[unit]}"


def format_seconds(seconds: float) -> str:
    """Return a duration as `4.2 s`, `3 min 20 s` or `5 h 07 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def facts_table(title: str) -> Table:
    """Return an empty table of two columns, a name and its value, for `add_row`."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        show_header=False,
        box=None,
        padding=(0, 2, 0, 0),
        min_width=len(title),
    )
    table.add_column(style="dim", no_wrap=True)
    # Of a path that is longer than the terminal every letter is shown: its end is what tells.
    table.add_column(overflow="fold")
    return table


def path_lines(title: str, lines: Mapping[str, str]) -> Text:
    """Return names and their paths or commands, one a line; print with `soft_wrap=True`, so that each can be copied."""
    width = max(map(len, lines))
    rows = [Text.assemble("\n", (f"{name:<{width}}", "dim"), "  ", line) for name, line in lines.items()]
    return Text.assemble((title, "bold"), *rows)


def command(*arguments: str) -> str:
    """Return a `pseudoris` command as it can be pasted into a shell, also where the program is not on the path."""
    program = "pseudoris"
    beside = Path(sys.executable).with_name(program)
    if shutil.which(program) is None and beside.exists():
        program = os.path.relpath(beside)
    return shlex.join([program, *arguments])


def report(word: str, text: str, style: str) -> None:
    """Print a coloured word and a plain message on stderr, unwrapped so that commands can be copied."""
    stderr.print(Text.assemble((word, style), " ", printable(text)), soft_wrap=True)


def report_stopped(text: str) -> None:
    """Say that a run was stopped, how it stands, and how it goes on."""
    report("stopped", text, "yellow")
    report("to resume", "run the same command again", "yellow")


def printable(text: str) -> str:
    """Return a message with control characters spelled out: names of files and columns in it are a stranger's words.

    A terminal would obey them: set its title, overwrite lines, and with signs that turn the direction of writing
    show another name than the one that is meant.
    """
    return "".join(letter if letter in "\n\t" or not _is_control(letter) else _spelled(letter) for letter in text)


class PrintableFormatter(logging.Formatter):
    """Writes log records as `printable` does."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's message."""
        return printable(super().format(record))


def _is_control(letter: str) -> bool:
    return unicodedata.category(letter) in _CONTROL_CATEGORIES


def _spelled(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
