"""Prints the help of every command, to be compared between two commits: `python -m tests.golden.help_texts > FILE`."""

from __future__ import annotations

from collections.abc import Iterator

import click
import typer.main
from typer.testing import CliRunner

from pseudoris.cli.main import app


def words_of(command: click.Command, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command below one, its own first."""
    yield before
    for name, child in sorted(getattr(command, "commands", {}).items()):
        yield from words_of(child, (*before, name))


def main() -> None:
    for words in words_of(typer.main.get_command(app)):
        shown = CliRunner(env={"COLUMNS": "120", "TERM": "dumb"}).invoke(app, [*words, "--help"])
        print(f"$ pseudoris {' '.join(words)}\n{shown.output}")


if __name__ == "__main__":
    main()
