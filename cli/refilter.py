"""`pseudoris refilter`: another run out of a finished one's scores, in seconds and without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cli import options
from cli.annotate import INTERRUPTED
from cli.console import command, facts_table, format_bytes, path_lines, report, report_stopped, stdout
from schemas.errors import ConfigError
from schemas.keeping import SCORE_COLUMNS, KeepCondition
from store.datacard import CARD_NAME
from store.location import RunLocation
from store.refiltering import DEFAULT_THREADS, RefilterSummary, RuleChange
from store.refiltering import refilter as run_refilter

NO_CONDITION = "none"


def refilter(
    out: options.Out,
    new: Annotated[str, typer.Argument(metavar="NEW", help="Folder or url that gets the new run.", show_default=False)],
    tau: Annotated[
        float | None,
        typer.Option(min=0.0, help="Keep what has a distinctiveness above; else OUT's.", show_default=False),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep",
            help=f"What it must meet besides, 'correctness > 0.2'; again for more. Of {', '.join(SCORE_COLUMNS)}. "
            f"Else OUT's; '{NO_CONDITION}' takes those away.",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option(min=1, max=64, help="Shards at once; each is held in memory.")
    ] = DEFAULT_THREADS,
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="Go on with other package versions than NEW was begun with.")
    ] = False,
) -> None:
    """Write OUT once more as NEW with another rule of what is kept, from its stored scores; no model is run."""
    change = RuleChange(tau, parse_conditions(keep))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=stdout, transient=True) as progress:
            task = progress.add_task("refiltering shards", total=None)
            found = run_refilter(
                RunLocation.open(out),
                RunLocation.open(new),
                change,
                num_threads=threads,
                allow_mixed=allow_mixed,
                on_progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
    except KeyboardInterrupt:
        report_stopped(f"nothing that is committed in {new} is lost")
        raise typer.Exit(INTERRUPTED) from None
    _print(out, new, found)


def parse_conditions(words: Sequence[str] | None) -> tuple[KeepCondition, ...] | None:
    """Return the conditions of `--keep` words; None for None.

    Raises:
        ConfigError: One is no condition, or `none` stands beside others.
    """
    if words is None:
        return None
    if list(words) == [NO_CONDITION]:
        return ()
    try:
        return tuple(KeepCondition.model_validate(word) for word in words)
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        raise ConfigError(f"--keep: {item['msg'].removeprefix('Value error, ')} (got {item['input']!r})") from None


def _print(out: str, new: str, found: RefilterSummary) -> None:
    stdout.print(_view(new, found), soft_wrap=True)
    for line in found.accepted:
        report("note", f"outside promise 2, as --allow-mixed accepts: {line}", "yellow")
    if found.card.is_beside:
        report("note", f"{CARD_NAME} was edited by hand and stays as it is; the new one is {found.card.path}", "yellow")
    stdout.print(
        path_lines("next", {"check": command("verify", new), "figures": command("stats", new)}), soft_wrap=True
    )


def _view(new: str, found: RefilterSummary) -> Table:
    totals = found.totals
    table = facts_table(f"{new}: complete")
    table.add_row("keeps", str(found.rule))
    table.add_row(
        "kept expressions", f"{totals.kept:,} of {totals.expressions:,}; {found.num_kept_before:,} in the parent"
    )
    table.add_row("images, masks", f"{totals.images:,}, {totals.masks:,}: as in the parent")
    before = f", {found.num_shards_before:,} of them by an earlier start" if found.num_shards_before else ""
    table.add_row("shards", f"{totals.shards:,}{before}")
    table.add_row("output", format_bytes(totals.output_bytes))
    return table
