"""`pseudoris audit page`: the page on which raters judge, as static files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.progress import Progress

from pseudoris.cli import options
from pseudoris.cli.console import command, report, stderr
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation

_SHOWN_MISSING = 3


def page(
    audit: options.Audit,
    to: Annotated[str, typer.Option("--to", metavar="DIR", help="Folder or url for the page.", show_default=False)],
    plugins: options.Plugins = None,
) -> None:
    """Write the page on which raters judge: files to open, or to put into a bucket or on a share."""
    options.load_plugins(plugins)
    from pseudoris.audit.audit_folder import AuditFolder
    from pseudoris.audit.judging_page import INDEX_NAME, write_judging_page

    opened, destination = AuditFolder.open(options.local_folder(audit)), RunLocation.open(to)
    if RunLocation.open(str(opened.path.absolute())).holds(destination):
        raise ConfigError(
            f"--to {to!r} is inside the audit. Choose a folder outside it: the page is for others to open."
        )
    with Progress(console=stderr, transient=True) as progress:
        images = progress.add_task("images", total=None)
        missing = write_judging_page(
            opened,
            destination,
            plugins or (),
            lambda done, total: progress.update(images, completed=done, total=total),
        )
    report_missing(missing)
    report("page", destination.uri(INDEX_NAME), "green")
    report("note", "Open it in a browser and judge. Whoever can open it sees its pictures and texts.", "dim")
    report("note", "Answers stay in the rater's browser until they are downloaded.", "dim")
    report("then", command("audit", "add", audit, "NAME.jsonl"), "dim")


def report_missing(pictures: Sequence[str]) -> None:
    """Name the first pictures that cannot be shown, by key or with the reason, and say how many there are."""
    for text in pictures[:_SHOWN_MISSING]:
        report("note", f"Picture not readable: {text}", "yellow")
    if pictures:
        report("note", f"{len(pictures):,} pictures are missing. Their questions can only be skipped.", "yellow")
