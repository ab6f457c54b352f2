"""`pseudoris verify`: the proof that nothing is lost, doubled or damaged, from the output alone."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.table import Table

from pseudoris.cli import options
from pseudoris.cli.console import facts_table, report, stdout
from pseudoris.cli.progress import bar
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.placement import PlacementConfig
from pseudoris.store.checks.verification import (
    CheckShards,
    OutsideBytes,
    Problem,
    VerifyReport,
    check_shards,
    verify_run,
)
from pseudoris.store.location import RunLocation

# More lines than a person reads; the count says how many there are.
MAX_SHOWN = 50
MAX_RANGES = 8

_DIGEST = re.compile("[0-9a-f]{64}")
_CHAIN = "digests of header, plan, receipts, manifests, tables"


def verify(
    out: options.Out,
    quick: Annotated[
        bool, typer.Option("--quick", help="Check sizes, rows and ids only; no digests, no masks.")
    ] = False,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Check N committed shards, spread evenly; all by default.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            help="Ray cluster that does the checks: auto, local, or HOST:PORT. By default, this process does them.",
        ),
    ] = None,
    root: Annotated[
        str | None,
        typer.Option(
            "--root", metavar="DIGEST", help="The root digest that the run must have, as verify printed it before."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Prove that every planned image is accounted for once and no file is damaged.

    Every file is checked against the digests that lead from the header to it. The root digest is one sha256 over all
    of them: keep it, and compare it later. Exit code 1 if there is a problem.
    """
    location = RunLocation.open_to_read(out)
    if root is not None and not _DIGEST.fullmatch(root):
        raise ConfigError(f"--root {root!r} is not a root digest: give the 64 hex digits that `verify` printed")
    with _checking(address) as check, bar("verifying shards") as show:
        found = verify_run(
            location,
            quick=quick,
            sample=sample,
            root=root,
            progress=show,
            check=check,
        )
    if as_json:
        typer.echo(json.dumps({"is_clean": found.is_clean, **dataclasses.asdict(found)}))
    else:
        _show_report(out, found)
    if not found.is_clean:
        report("off", f"{_num_problems(found.problems)} in {out}", "red")
        raise typer.Exit(1)


@contextmanager
def _checking(address: str | None) -> Iterator[CheckShards]:
    if address is None:
        yield check_shards
        return
    # Ray takes seconds to import: only for those who ask for it.
    from pseudoris.pipeline.cluster import connected
    from pseudoris.pipeline.fan_out import checking_on_cluster

    with connected(address):
        yield checking_on_cluster(PlacementConfig().read)


def _show_report(out: str, found: VerifyReport) -> None:
    stdout.print(_report_view(out, found))
    # A line of its own, unwrapped, so that it can be copied.
    stdout.print(f"root digest  {found.root or 'unknown, as a receipt cannot be used'}", soft_wrap=True)
    if found.problems:
        stdout.print(_problems_view(found.problems))
    if found.outside:
        stdout.print(_outside_view(found.outside))


def _report_view(out: str, found: VerifyReport) -> Table:
    whole = (
        "no problem found in any shard"
        if found.num_checked == found.num_shards
        else "no problem found in the checked shards"
    )
    table = facts_table(f"{out}: {whole if found.is_clean else 'problems found'}")
    table.add_row("images planned", f"{found.num_images:,}")
    table.add_row("accounted for", f"{found.num_accounted:,}")
    table.add_row("", f"{found.annotated:,} annotated, {found.empty:,} empty, {found.quarantined:,} quarantined")
    table.add_row("shards checked", f"{found.num_checked:,} of {found.num_shards:,}")
    table.add_row("chain", _CHAIN)
    for notice in found.notices:
        table.add_row("notice", notice)
    return table


def _outside_view(outside: tuple[OutsideBytes, ...]) -> Table:
    title = "not byte-reproducible: bytes may differ from another run's (not a problem)"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for header in ("shards", "what", "detail"):
        table.add_column(header, overflow="fold")
    for each in outside:
        shown = [str(first) if first == last else f"{first}–{last}" for first, last in each.shards[:MAX_RANGES]]
        more = ", …" if len(each.shards) > MAX_RANGES else ""
        table.add_row(f"{each.num_shards:,}: {', '.join(shown)}{more}", each.what, each.detail)
    return table


def _num_problems(problems: tuple[Problem, ...]) -> str:
    return "1 problem" if len(problems) == 1 else f"{len(problems):,} problems"


def _problems_view(problems: tuple[Problem, ...]) -> Table:
    shown = f", the first {MAX_SHOWN}" if len(problems) > MAX_SHOWN else ""
    table = Table(title=f"{_num_problems(problems)}{shown}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for header in ("shard", "what", "detail"):
        table.add_column(header, overflow="fold")
    for problem in problems[:MAX_SHOWN]:
        table.add_row("–" if problem.shard is None else str(problem.shard), problem.what, problem.detail)
    return table
