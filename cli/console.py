"""Output of all commands and experiments: two consoles, and what goes around them to the streams.

Names, captions and messages are untrusted: a terminal executes the control characters in them. So everything that a
command prints goes through the consoles, `echo` or `echo_json`, which spell control characters.
"""

from __future__ import annotations

import codecs
import io
import logging
import os
import sys
from collections.abc import Iterable
from typing import Any, Final

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from pseudoris.primitives.untrusted import printable, printable_json, spelled, without_controls

READER_GONE: Final = 141
_MAX_LETTERS: Final = 200
_DEGRADED: Final = "pseudoris-degraded"
# Without Unicode each sign becomes one letter, so that widths stay. The Braille signs are those of Rich's spinner.
_PLAIN: Final = str.maketrans("–—…×·•τ━╸╺█✓“”‘’←→↑↓", "--.x..t---#v\"\"''<>^v") | {
    code: "|/-\\"[code % 4] for code in range(0x2800, 0x2900)
}


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


def report(word: str, text: str, style: str, *, console: Console = stderr) -> None:
    """Print a coloured word and a plain message, unwrapped so that commands can be copied; results go to `stdout`."""
    console.print(Text.assemble((word, style), " ", printable(shortened(text))), soft_wrap=True)


def note(text: str) -> None:
    """Print what a user should know, as messages on the way to a result are printed."""
    report("note", text, "yellow")


def shortened(text: str) -> str:
    """Return a message that repeats at most 200 letters of each word of the command line."""
    for word in sys.argv[1:]:
        for part in (word, word.partition("=")[2], word.rpartition("=")[2]):
            if len(part) > _MAX_LETTERS:
                for form in (part, repr(part)[1:-1]):
                    text = text.replace(form, f"{part[:_MAX_LETTERS]}…")
    return text


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
