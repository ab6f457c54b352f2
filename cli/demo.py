"""`pseudoris demo`: the whole tool on a bundled set, offline, in about a minute."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
import typer
from rich.table import Table

from pseudoris.cli import annotate, gallery
from pseudoris.cli.console import command, path_lines, stdout
from pseudoris.schemas.config_layers import config_hash, load_config
from pseudoris.schemas.tables import EXPRESSIONS
from pseudoris.store.location import RunLocation
from pseudoris.store.tables.committed_tables import read_table

NUM_SAMPLE_ROWS = 3
# What fits a terminal of 80 columns beside the text; the table has many more.
_SAMPLE_COLUMNS = ("text", "uniqueness", "correctness", "distinctiveness")


def demo(
    folder: Annotated[Path, typer.Argument(help="Folder for the scenes and the run.")] = Path("demo-out"),
    scenes: Annotated[int, typer.Option(min=1, max=900, help="Number of scenes.")] = 64,
) -> None:
    """Annotate bundled scenes with the embedded models, offline, in about a minute.

    Some files are broken on purpose, to show how they are quarantined.
    """
    from pseudoris.synthworld.demo import write_demo

    images = write_demo(folder, num_scenes=scenes)
    # A Ray of its own: a demonstration must not land on somebody's cluster.
    config = load_config("tiny", assignments=["placement.address=local"])
    # Another preset, other weights or another number of scenes are another run; the same ones continue or are done.
    out = str(folder / f"run-{scenes}-{config_hash(config)[:8]}")
    exit_code = annotate.run(str(images), out, config)
    if exit_code:
        raise typer.Exit(exit_code)
    stdout.print("", _sample_rows(RunLocation.open(out)), "")
    page = gallery.write_pages(out, sample=scenes)
    stdout.print(path_lines("look", {"page": page, "next": command("verify", out)}), soft_wrap=True)


def _sample_rows(location: RunLocation) -> Table:
    """Return three rows of the expressions table: the most distinctive ones of different masks."""
    rows = read_table(location, EXPRESSIONS, ("target_mask_ids", "kept", *_SAMPLE_COLUMNS))
    kept = rows.filter(pc.fill_null(pc.and_(rows["kept"], pc.is_valid(rows["distinctiveness"])), False))
    ranked = kept.sort_by([("distinctiveness", "descending")]) if kept.num_rows else kept
    table = Table(title=f"{NUM_SAMPLE_ROWS} rows of {EXPRESSIONS}", title_justify="left", title_style="bold", box=None)
    for column in _SAMPLE_COLUMNS:
        table.add_column(column)
    for row in _of_different_masks(ranked):
        table.add_row(*(_cell(row[column]) for column in _SAMPLE_COLUMNS))
    return table


def _of_different_masks(ranked: pa.Table) -> list[dict[str, object]]:
    seen: set[tuple[str, ...]] = set()
    chosen: list[dict[str, object]] = []
    for row in ranked.to_pylist():
        targets = tuple(row["target_mask_ids"])
        if targets not in seen:
            seen.add(targets)
            chosen.append(row)
        if len(chosen) == NUM_SAMPLE_ROWS:
            break
    return chosen


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
