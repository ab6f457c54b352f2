"""`pseudoris stats`, `sample` and `parts`: shows a run's figures, some of its rows, and its committed files.

Called by `main`. Only what receipts name is read, so a run that is still written can be shown.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any

from rich.console import Group, RenderableType

from pseudoris.cli import console, formats, options
from pseudoris.cli.options import option
from pseudoris.cli.progress import bar
from pseudoris.cli.summaries import counts_text
from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import printable
from pseudoris.schemas.tables import EXPRESSIONS, SCHEMAS
from pseudoris.store.reports.run_status import run_status
from pseudoris.store.reports.statistics import DEFAULT_SAMPLE, GROUPS, Distribution, RunStatistics, run_statistics
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.receipts import latest_receipts, part_path
from pseudoris.store.tables.open_run import COLUMNS
from pseudoris.store.tables.parts import part_sizes, refuse_lost

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_QUANTILE_NAMES = {0.0: "least", 0.5: "median", 1.0: "most"}
DEFAULT_COLUMNS = "key,text,kind,confidence,distinctiveness,correctness,decoder,crop"
ALL_TABLES = "all"


def stats(
    out: options.Out,
    sample: Annotated[
        int, option("Read the tables of N shards, spread evenly. Totals count all shards.", min=1)
    ] = DEFAULT_SAMPLE,
    every: Annotated[bool, option("--every", "Read the tables of every shard.")] = False,
    top: Annotated[int, option("Number of most frequent expressions to show.", min=0, max=1_000)] = 10,
    as_json: options.AsJson = False,
) -> None:
    """Show the run in numbers: masks, expressions, lengths, scores, what is kept."""
    with bar("reading shards") as show:
        chosen = None if every else sample
        found = run_statistics(RunLocation.open_to_read(out), sample=chosen, num_top=top, on_progress=show)
    spreads = {"masks an image": found.masks_an_image, "kept on a mask": found.kept_a_mask, "words, kept": found.words}
    spreads |= found.scores
    if not as_json:
        console.stdout.print(stats_view(out, found, spreads))
        return
    distributions = {
        name: {
            "values": each.num_values,
            "mean": each.mean,
            "quantiles": {f"{share:g}": each.quantile(share) for share in QUANTILES},
        }
        for name, each in spreads.items()
    }
    groups = {
        name: {value: {GROUPS[name]: n.counted, "kept": n.kept, "share": n.share} for value, n in counts.items()}
        for name, counts in found.groups.items()
    }
    tree = {
        "num_planned_images": found.num_planned_images,
        "num_shards_read": found.num_shards_read,
        "totals": dataclasses.asdict(found.totals),
        "copies": dataclasses.asdict(found.copies),
        "warning": found.warning,
        "keeps": [dataclasses.asdict(clause) for clause in found.clauses],
        "distributions": distributions,
        "groups": groups,
        "top": [{"text": text, "count": count} for text, count in found.top],
        "top_error": found.top_error,
    }
    console.echo_json(tree)


def stats_view(out: str, found: RunStatistics, spreads: Mapping[str, Distribution]) -> RenderableType:
    """Return the figures as tables; `spreads` are its distributions by title."""
    totals = found.totals
    counts = formats.facts_table(f"{out}: {totals.images:,} of {found.num_planned_images:,} images committed")
    counts.add_row("", counts_text(totals))
    counts.add_row("copies", str(found.copies))
    counts.add_row("masks", f"{totals.masks:,}")
    share = f"; {totals.kept / totals.expressions:.1%} of candidates" if totals.expressions else ""
    kept = formats.kept_text(totals)
    counts.add_row("kept expressions", f"{kept}{share}")
    formats.add_clauses(counts, found.clauses)
    counts.add_row("size", formats.format_bytes(totals.output_bytes))
    counts.add_row("below", f"from the tables of {found.num_shards_read:,} of {totals.shards:,} shards")
    names = ("", "mean", *(_QUANTILE_NAMES.get(share, f"{share:.0%}") for share in QUANTILES))
    table = formats.columns_table(names, title="distributions")
    table.columns[0].no_wrap = True
    for name, distribution in spreads.items():
        values = (distribution.mean, *(distribution.quantile(share) for share in QUANTILES))
        table.add_row(name, *("–" if value is None else f"{value:.4g}" for value in values))
    parts: list[RenderableType] = [*formats.warning_lines(found.warning), counts, "", table]
    for name, groups in found.groups.items():
        rows = ((value, f"{each.counted:,}", f"{each.kept:,}", f"{each.share:.1%}") for value, each in groups.items())
        parts += ["", formats.columns_table(("", GROUPS[name], "kept", "share"), rows, title=f"by {name}")]
    if found.top:
        error = f" (counts may be too low by up to {found.top_error:,})" if found.top_error else ""
        most = ((text, f"{times:,}") for text, times in found.top)
        parts += ["", formats.columns_table(("", "times"), most, title=f"most frequent kept expressions{error}")]
    return Group(*parts)


def sample(
    out: options.Out,
    rows: Annotated[int, option("-n", "--rows", "Number of rows.", min=1)] = 20,
    seed: Annotated[int, option("The same seed gives the same rows.", min=0)] = 0,
    columns: Annotated[
        str | None,
        option(f"Columns to show, separated by commas: {', '.join(COLUMNS)}. Default: {DEFAULT_COLUMNS}, where set."),
    ] = None,
    all_candidates: Annotated[
        bool, option("--all", "Draw from all candidates, not only from kept expressions.")
    ] = False,
    as_json: Annotated[bool, option("--json", "Print one JSON object per line.")] = False,
    as_csv: Annotated[bool, option("--csv", "Print comma-separated values with a header; lists are JSON.")] = False,
) -> None:
    """Show expressions drawn evenly over the run.

    Only the shards that hold them are read.
    """
    if as_json and as_csv:
        raise ConfigError("--json and --csv exclude each other. Give one.")
    from pseudoris.store.tables.run_reader import Run

    names = [name.strip() for name in (DEFAULT_COLUMNS if columns is None else columns).split(",")]
    location = RunLocation.open_to_read(out)
    found = Run(location).sample(rows, columns=names, seed=seed, kept_only=not all_candidates).to_pylist()
    if as_json:
        for row in found:
            console.echo_json(row)
    elif as_csv:
        # A pipe gets the raw values. On a terminal control characters are spelled out, because it would obey them.
        shown = printable if sys.stdout.isatty() else str
        writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
        writer.writeheader()
        for row in found:
            writer.writerow({name: None if row[name] is None else shown(str(_flat(row[name]))) for name in names})
    else:
        # Columns that are null in every shown row are left out, such as the scores of human expressions.
        has = [
            name for name in names if columns is not None or not found or any(row[name] is not None for row in found)
        ]
        rows_shown = ([_cell(row[name]) for name in has] for row in found)
        console.stdout.print(formats.columns_table(has, rows_shown, num_texts=len(has)))
        if not found:
            console.echo("None to show." if all_candidates else "None is kept. --all draws from all candidates.")
        if not all_candidates and (whole := run_status(location)).kept_lone:
            kept = formats.kept_text(whole)
            console.stdout.print(f"\nThe run keeps {kept}.", soft_wrap=True)


def _flat(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else printable(str(_flat(value)))


def parts(
    out: options.Out,
    table: Annotated[str, option("--table", f"Table to list: {', '.join(SCHEMAS)}, or all.")] = EXPRESSIONS,
    as_json: Annotated[
        bool, option("--json", "Print one JSON object per line: path, table, shard, generation, rows, size, sha256.")
    ] = False,
) -> None:
    """List the committed files of a table, also during a run.

    A glob would also find files that were never committed.
    """
    location = RunLocation.open_to_read(out)
    require_header(location)
    if table not in (*SCHEMAS, ALL_TABLES):
        raise ConfigError(f"There is no table {table!r}. Give --table {', '.join(SCHEMAS)}, or {ALL_TABLES}.")
    sizes = part_sizes(location, SCHEMAS if table == ALL_TABLES else (table,))
    for receipt in latest_receipts(location):
        for name in sizes:
            part = receipt.parts[name]
            refuse_lost(location, name, part, sizes[name])
            uri = location.uri(part_path(name, part))
            if not as_json:
                console.echo(uri, is_data=True)
                continue
            place = {"path": uri, "table": name, "shard": receipt.shard, "generation": receipt.generation}
            console.echo_json({**place, **part.model_dump(exclude={"name"})})
