"""Run the loaders of other projects' trainers on exports, and write what they gave.

python -m evidence.experiments.loaders FOLDER       runs each loader whose snapshot lies in FOLDER, then writes the
table
python -m evidence.experiments.loaders              writes the table of docs/records/appendix/exports.md from the record
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import typer

from evidence.experiments.loaders.record import (
    MARKS,
    PAGE,
    RECORD,
    cells_of,
    measured,
    read_record,
    read_trainers,
    table_of,
)
from evidence.experiments.loaders.truth import make_run
from evidence.experiments.quality.markdown_cells import put_into

app = typer.Typer(add_completion=False)


@app.command()
def loaders(
    folder: Annotated[Path | None, typer.Argument(help="Folder of the snapshots that trainers.tsv names.")] = None,
    work: Annotated[Path, typer.Option(help="Folder for the run and its exports.")] = Path("loaders-out"),
    only: Annotated[list[str] | None, typer.Option("--only", help="Name of a trainer; may be repeated.")] = None,
    record: Annotated[Path, typer.Option(help="Where rows are kept; those of other trainers stay.")] = RECORD,
    page: Annotated[Path, typer.Option(help="The page that shows the table.")] = PAGE,
) -> None:
    """Run the loaders, keep what they gave, and write the table."""
    rows, trainers = read_record(record), read_trainers()
    if unknown := sorted(set(only or ()) - set(trainers)):
        raise typer.BadParameter(f"there is no trainer {unknown[0]!r}: one of {'; '.join(trainers)} is allowed")
    if folder is None:
        typer.echo("skipped: no loader runs without the FOLDER of their snapshots")
    else:
        work.mkdir(parents=True, exist_ok=True)
        make_run(work / "demo")
        for name in only or trainers:
            # A process each: modules of different trainers have the same name, and stubs are not for others.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                row = pool.submit(measured, trainers[name], folder.resolve(), work.resolve()).result()
            said = ", ".join(cells_of(row["figures"])) if row["figures"] else f"skipped: {row['problem']}"
            typer.echo(f"{name}: {said}")
            # A loader that does not run leaves what it gave before.
            if row["figures"] or not rows.get(name, {}).get("figures"):
                rows[name] = row
            lines = (f"{json.dumps(each)}: {json.dumps(rows[each])}" for each in trainers if each in rows)
            record.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    put_into(page, table_of(rows), marks=MARKS)


if __name__ == "__main__":
    app()
