"""`pseudoris --help` on one screen of 100 x 30: groups of commands, one line each, then options and exit codes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from pseudoris.cli.console import stdout

EXIT_CODES: Final = "Exit codes: 0 done; 1 problem found; 2 error to fix; 3 incomplete, 130 interrupted: run it again"


class HelpPage(TyperGroup):
    """The root command, with a help page of its own; commands below it keep Typer's.

    Typer reads help texts as Rich markup, which would take "[class name]" for a style and drop it: every text below
    the root is escaped. Markup mode None would do without, and without the choices and the colours too.
    """

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        _escape_texts(self.commands.values())

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the page."""
        del formatter  # Typer prints too, and leaves the formatter empty
        page = Table.grid(padding=(0, 2, 0, 0))
        for width in (5, 9, None):
            page.add_column(min_width=width)
        for row in self._rows():
            page.add_row(*row)
        options = Table.grid(padding=(0, 2, 0, 0))
        for parameter in self.get_params(ctx):
            names, text = parameter.get_help_record(ctx) or ("", "")
            # Typer says more of completion than fits a line.
            options.add_row(names, text.partition(",")[0])
        stdout.print(self.get_usage(ctx), self.help, "", page, "", options, EXIT_CODES, sep="\n")

    def _rows(self) -> Iterator[tuple[str, str, str]]:
        """Yield a group's name on its first line, a command's name, and the first line of its help."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            # Escaped for Typer's own pages; here nothing is read as markup.
            summary = (command.help or "").partition("\n")[0].replace("\\[", "[")
            groups.setdefault(str(getattr(command, "rich_help_panel", "")), []).append((name, summary))
        for group, rows in groups.items():
            for number, (name, summary) in enumerate(rows):
                yield "" if number else group, name, summary


def _escape_texts(commands: Iterable[Any]) -> None:
    for command in commands:
        for each in (command, *command.params):
            for name in ("help", "short_help", "epilog"):
                text = getattr(each, name, None)
                if text:
                    setattr(each, name, escape(text))
        _escape_texts(getattr(command, "commands", {}).values())
