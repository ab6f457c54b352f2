"""Output of all commands, examples and experiments: two consoles, tables, and numbers written for a person.

Names, captions and messages are untrusted: a terminal executes the control characters in them. So everything that a
command prints goes through the consoles, `echo` or `echo_json`, which spell control characters.
"""

from __future__ import annotations

import codecs
import io
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from pseudoris.primitives.untrusted import printable, printable_json, spelled, without_controls

READER_GONE: Final = 141
_DEGRADED: Final = "pseudoris-degraded"
# Without Unicode each sign becomes one letter, so that widths stay. The Braille signs are those of Rich's spinner.
_PLAIN: Final = str.maketrans("–—…×·•τ━╸╺█✓“”‘’←→↑↓", "--.x..t---#v\"\"''<>^v") | {
    code: "|/-\\"[code % 4] for code in range(0x2800, 0x2900)
}
_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


class SafeConsole(Console):
    """A console that spells the control characters in everything that it prints, also in tables and progress bars."""

    def __init__(self, **options: Any) -> None:
        # Markup and emoji are off, because `[a]` in keys, paths and captions is no style, and `:smile:` is no picture.
        super().__init__(**options, highlight=False, markup=False, emoji=False)

    def on_broken_pipe(self) -> None:
        """End silently, with the exit code of SIGPIPE, if the reader of the output has ended (`| head`)."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(READER_GONE)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return plain text as Rich shows it; escaped here, it gets the width that its escapes need."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of `renderable` as printable text; Rich's own ones, which move the cursor, stay."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(printable(text), style)


stdout = SafeConsole()
stderr = SafeConsole(stderr=True)


def kept_text(kept: int, kept_lone: int | None, *, num_candidates: int) -> str:
    """Return how many candidates are kept, and how many of them were compared with no other mask."""
    text = f"{kept:,} of {num_candidates:,} candidates"
    return f"{text}, {kept_lone:,} of them unfiltered (their mask is alone in its image)" if kept_lone else text


def counted(number: int, noun: str) -> str:
    """Return "1 image" or "1,200 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def next_lines(out: str) -> Text:
    """Return what to do with a run that is complete; print with `soft_wrap=True`."""
    return path_lines("next", {"check": command("verify", out), "figures": command("stats", out)})


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


def facts_table(title: str, rows: Iterable[tuple[str, str]] = ()) -> Table:
    """Return a table of two columns, a name and its value; `add_row` adds more rows."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        show_header=False,
        box=None,
        padding=(0, 2, 0, 0),
        min_width=len(title),
    )
    table.add_column(style="dim", overflow="fold")
    # A path longer than the terminal is wrapped, not cut, because the end of a path matters.
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def columns_table(
    headers: Sequence[str], rows: Iterable[Sequence[str | Text]] = (), *, title: str | None = None, num_texts: int = 1
) -> Table:
    """Return a table with one column per header; those after the first `num_texts` hold figures, on the right."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=None,
        # Columns of numbers have little padding, so that eight of them fit into 80 letters.
        padding=(0, 1 if num_texts == 1 else 2, 0, 0),
        min_width=len(title or ""),
    )
    for index, header in enumerate(headers):
        is_text = index < num_texts
        table.add_column(header, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    for row in rows:
        table.add_row(*row)
    return table


def warning_lines(warning: str | None) -> list[RenderableType]:
    """Return what stands above the figures of a run whose models may not know its images; empty without a warning."""
    return [] if warning is None else [Text(warning, "bold yellow"), ""]


def path_lines(title: str, lines: Mapping[str, str]) -> Text:
    """Return names and their paths or commands, one per line; print with `soft_wrap=True`, so that each copies well."""
    width = max(map(len, lines))
    rows = [Text.assemble("\n", (f"{name:<{width}}", "dim"), "  ", printable(line)) for name, line in lines.items()]
    return Text.assemble((printable(title), "bold"), *rows)


def command(*arguments: str) -> str:
    """Return a `pseudoris` command as it can be pasted into a shell, also where the program is not on the path."""
    program = "pseudoris"
    beside = Path(sys.executable).with_name(program)
    if shutil.which(program) is None and beside.exists():
        program = os.path.relpath(beside)
    return shlex.join([program, *arguments])


def report(word: str, text: str, style: str, *, console: Console = stderr) -> None:
    """Print a coloured word and a plain message, unwrapped so that commands can be copied; results go to `stdout`."""
    console.print(Text.assemble((word, style), " ", printable(text)), soft_wrap=True)


def echo(text: str, *, nl: bool = True, is_data: bool = False) -> None:
    """Print plain text on stdout, for another program to read. In data, links are not shortened."""
    typer.echo((without_controls if is_data else printable)(text), nl=nl)


def echo_json(value: object) -> None:
    """Print a value as one line of JSON; control characters, and what the encoding lacks, as JSON's escapes."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    is_utf = codecs.lookup(encoding).name.startswith("utf")
    typer.echo(printable_json(value, ensure_ascii=not is_utf))


def degrade_output() -> None:
    """Let stdout and stderr replace what their encoding lacks (spinners, bars, foreign letters) instead of failing."""
    codecs.register_error(_DEGRADED, _degraded)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_DEGRADED)


def _degraded(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    pairs = ((letter, letter.translate(_PLAIN)) for letter in error.object[error.start : error.end])
    return "".join(plain if plain.isascii() else spelled(letter) for letter, plain in pairs), error.end


def report_stopped(text: str) -> None:
    """Say that a run was stopped, how it stands, and how it goes on."""
    report("stopped", text, "yellow")
    report("to resume", "run the same command again", "yellow")


class PrintableFormatter(logging.Formatter):
    """Writes log records as `printable` does."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's message."""
        return printable(super().format(record))
