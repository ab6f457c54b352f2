"""`pseudoris stats`: what a run holds, in figures."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table

from pseudoris.cli import options
from pseudoris.cli.console import domain_lines, echo_json, facts_table, format_bytes, kept_text, stdout
from pseudoris.cli.progress import bar
from pseudoris.store.location import RunLocation
from pseudoris.store.reports.statistics import DEFAULT_SAMPLE, GROUPS, Distribution, RunStatistics, run_statistics

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
DEFAULT_TOP = 10


def stats(
    out: options.Out,
    sample: Annotated[
        int, typer.Option(min=1, help="Read the tables of N shards, spread evenly. Totals count all shards.")
    ] = DEFAULT_SAMPLE,
    every: Annotated[bool, typer.Option("--every", help="Read the tables of every shard.")] = False,
    top: Annotated[
        int, typer.Option(min=0, max=1_000, help="Number of most frequent expressions to show.")
    ] = DEFAULT_TOP,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the run in numbers: masks, expressions, lengths, scores, what is kept."""
    with bar("reading shards") as show:
        found = run_statistics(
            RunLocation.open_to_read(out),
            sample=None if every else sample,
            num_top=top,
            on_progress=show,
        )
    if as_json:
        echo_json(_tree(found))
    else:
        stdout.print(stats_view(out, found))


def stats_view(out: str, found: RunStatistics) -> RenderableType:
    """Return the figures as tables."""
    parts: list[RenderableType] = [
        *domain_lines(found.domain),
        _counts_view(out, found),
        "",
        _distributions_view(found),
    ]
    for name, groups in found.groups.items():
        table = _table(f"by {name}", ("", GROUPS[name], "kept", "share"))
        for value, count in groups.items():
            table.add_row(value, f"{count.counted:,}", f"{count.kept:,}", f"{count.share:.1%}")
        parts += ["", table]
    if found.top:
        error = f" (counts may be too low by up to {found.top_error:,})" if found.top_error else ""
        table = _table(f"most frequent kept expressions{error}", ("", "times"))
        for text, times in found.top:
            table.add_row(text, f"{times:,}")
        parts += ["", table]
    return Group(*parts)


def _counts_view(out: str, found: RunStatistics) -> Table:
    totals = found.totals
    table = facts_table(f"{out}: {totals.images:,} of {found.num_planned_images:,} images committed")
    table.add_row("", f"{totals.annotated:,} annotated, {totals.empty:,} empty, {totals.quarantined:,} quarantined")
    table.add_row("masks", f"{totals.masks:,}")
    share = f" ({totals.kept / totals.expressions:.1%})" if totals.expressions else ""
    kept = kept_text(totals.kept, totals.kept_lone, num_candidates=totals.expressions)
    table.add_row("kept expressions", f"{kept}{share}")
    table.add_row("size", format_bytes(totals.output_bytes))
    table.add_row("below", f"from the tables of {found.num_shards_read:,} of {totals.shards:,} shards")
    return table


def _distributions_view(found: RunStatistics) -> Table:
    table = _table("distributions", ("", "mean", *(_quantile_name(share) for share in QUANTILES)))
    table.columns[0].no_wrap = True
    for name, distribution in _distributions(found).items():
        values = (distribution.mean, *(distribution.quantile(share) for share in QUANTILES))
        table.add_row(name, *("–" if value is None else f"{value:.4g}" for value in values))
    return table


def _distributions(found: RunStatistics) -> dict[str, Distribution]:
    return {
        "masks an image": found.masks_an_image,
        "kept a mask": found.kept_a_mask,
        "words, kept": found.words,
        **found.scores,
    }


def _quantile_name(share: float) -> str:
    return {0.0: "least", 0.5: "median", 1.0: "most"}.get(share, f"{share:.0%}")


def _table(title: str, headers: tuple[str, ...]) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0), min_width=len(title)
    )
    for index, header in enumerate(headers):
        table.add_column(header, justify="left" if index == 0 else "right", overflow="fold", min_width=len(header))
    return table


def _tree(found: RunStatistics) -> dict[str, Any]:
    distributions = {
        name: {
            "values": each.num_values,
            "mean": each.mean,
            "quantiles": {f"{share:g}": each.quantile(share) for share in QUANTILES},
        }
        for name, each in _distributions(found).items()
    }
    return {
        "num_planned_images": found.num_planned_images,
        "num_shards_read": found.num_shards_read,
        "totals": dataclasses.asdict(found.totals),
        "domain": None if found.domain is None else found.domain.model_dump(),
        "distributions": distributions,
        "groups": {
            name: {
                value: {GROUPS[name]: count.counted, "kept": count.kept, "share": count.share}
                for value, count in groups.items()
            }
            for name, groups in found.groups.items()
        },
        "top": [{"text": text, "count": count} for text, count in found.top],
        "top_error": found.top_error,
    }
