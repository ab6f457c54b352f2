"""`pseudoris audit serve` and `audit page`: the page on which raters judge, from a local server or as static files."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import threading
import webbrowser
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress

from pseudoris.cli import options
from pseudoris.cli.console import command, report, stderr
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation

if TYPE_CHECKING:
    from pseudoris.audit.audit_folder import AuditFolder
    from pseudoris.audit.web.pictures import Pictures
    from pseudoris.audit.web.questions import Questions
    from pseudoris.audit.web.raters import Raters

_SHOWN_MISSING = 3


def serve(
    audit: options.Audit,
    rater: Annotated[
        str | None,
        typer.Option("--rater", metavar="NAME", help="Who judges. Default: the page asks.", show_default=False),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port on this machine; 0 takes a free one.")] = 0,
    has_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
    plugins: options.Plugins = None,
) -> None:
    """Judge in a browser: a local web page, one or several raters."""
    options.load_plugins(plugins)
    # Here: no other command needs a web server.
    from pseudoris.audit.audit_folder import AuditFolder
    from pseudoris.audit.audit_lock import writing_alone
    from pseudoris.audit.verdict_file import check_rater
    from pseudoris.audit.web.questions import Questions
    from pseudoris.audit.web.raters import Raters
    from pseudoris.audit.web.server import HOST, JudgingServer, listening_socket
    from pseudoris.audit.web.server import serve as serve_until_stopped

    if rater is not None:
        check_rater(rater)
    opened = AuditFolder.open(options.local_folder(audit))
    with listening_socket(port) as listening:
        address = f"http://{HOST}:{listening.getsockname()[1]}/"
        with writing_alone(opened.path, address):
            questions = Questions(opened)
            raters, token = Raters(opened, questions), secrets.token_urlsafe(24)
            application = JudgingServer(questions, raters, _pictures(opened, plugins)).application(token)
            page = f"{address}{token}/" + (f"?rater={rater}" if rater else "")
            asyncio.run(serve_until_stopped(application, listening, lambda: _say_ready(page, questions, has_browser)))
            _say_stopped(audit, raters)


def page(
    audit: options.Audit,
    to: Annotated[str, typer.Option("--to", metavar="DIR", help="Folder or url for the page.", show_default=False)],
    plugins: options.Plugins = None,
) -> None:
    """Write the page as static files, for a bucket or a share."""
    options.load_plugins(plugins)
    from pseudoris.audit.audit_folder import AuditFolder
    from pseudoris.audit.web.static_page import INDEX_NAME, write_static_page

    opened, destination = AuditFolder.open(options.local_folder(audit)), RunLocation.open(to)
    if RunLocation.open(str(opened.path.absolute())).holds(destination):
        raise ConfigError(
            f"--to {to!r} is inside the audit. Choose a folder outside it: the page is for others to open."
        )
    with Progress(console=stderr, transient=True) as progress:
        images = progress.add_task("images", total=None)
        missing = write_static_page(
            opened,
            destination,
            _pictures(opened, plugins),
            lambda done, total: progress.update(images, completed=done, total=total),
        )
    report_missing(missing)
    report("page", destination.uri(INDEX_NAME), "green")
    report("note", "Whoever can open the page sees its pictures and texts. Answers stay in the rater's browser.", "dim")
    report("then", command("audit", "add", audit, "NAME.jsonl"), "dim")


def report_missing(pictures: Sequence[str]) -> None:
    """Name the first pictures that cannot be shown, by key or with the reason, and say how many there are."""
    for text in pictures[:_SHOWN_MISSING]:
        report("note", f"Picture not readable: {text}", "yellow")
    if pictures:
        report("note", f"{len(pictures):,} pictures are missing. Their questions can only be skipped.", "yellow")


def _pictures(opened: AuditFolder, plugins: list[str] | None) -> Pictures:
    from pseudoris.audit.web.pictures import Pictures
    from pseudoris.images.pillow_formats import allowed_formats

    return Pictures(opened, allowed_formats(tuple(plugins or ())))


def _say_ready(page: str, questions: Questions, has_browser: bool) -> None:
    report("judge", page, "green")
    counts = f"{questions.num_pairs():,} texts, {questions.num_images():,} pictures to search."
    report("note", f"{counts} Several raters can open this address. Ctrl-C ends; the same command goes on.", "dim")
    # Where there is no screen, it would open a browser in this terminal.
    has_screen = sys.platform in ("darwin", "win32") or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    if has_browser and has_screen:
        threading.Thread(target=webbrowser.open, args=(page,), daemon=True).start()


def _say_stopped(audit: str, raters: Raters) -> None:
    for name, number in raters.num_answers().items():
        report("stored", f"{number:,} answers of {name}", "green")
    report("next", command("audit", "report", audit), "dim")
