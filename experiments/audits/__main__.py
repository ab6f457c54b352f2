"""Simulate audits whose truth is known, and say whether their intervals hold it.

    python -m experiments.audits [--json FILE] [--page docs/records/audits.md] [--plot docs/records/audits.svg]

Two thousand audits of each of twelve populations take eight minutes of one core. `--audits 100` is a trial,
which writes nothing into docs or results. It ends with 1 if an interval misses what is promised.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from experiments.audits.page import BEGIN, DRAWN_RUN, END, as_markdown, coverage_chart
from experiments.audits.populations import POPULATIONS
from experiments.audits.simulated_audits import ACCURACIES, NUM_AUDITS, Job, failures, search, simulate
from experiments.process_pool import run_jobs
from experiments.quality.markdown_cells import put_into

_WHOLE_ONLY = tuple(Path(__file__).parents[2] / name for name in ("docs", "experiments/results"))


def main(
    audits: Annotated[int, typer.Option(min=1, help="Simulated audits of each population.")] = NUM_AUDITS,
    processes: Annotated[int, typer.Option(min=1, help="Of one thread each.")] = 1,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
    page: Annotated[Path | None, typer.Option(help="Put the tables into this page, between its marks.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the picture here.")] = None,
) -> None:
    """Simulate, print the tables, and check the promises."""
    for path in (json_path, page, plot):
        if path is not None and audits != NUM_AUDITS and any(map(path.resolve().is_relative_to, _WHOLE_ONLY)):
            raise typer.BadParameter(f"{path} has the figures of {NUM_AUDITS:,} audits: leave --audits out")
    jobs = [Job(name, accuracy, audits) for name in POPULATIONS for accuracy in ACCURACIES]
    parts = [(simulate, "populations"), (search, "populations, searched")]
    rows = [row for work, shown in parts for found in run_jobs(work, jobs, processes, shown=shown) for row in found]
    if json_path is not None and json_path.exists():
        # Those of another command stay.
        rows += [row for row in json.loads(json_path.read_text()) if row["question"] == DRAWN_RUN]
    if json_path is not None:
        lines = ",\n".join(json.dumps(row) for row in rows)
        json_path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    tables = as_markdown(rows)
    if page is not None:
        put_into(page, tables, marks=(BEGIN, END))
    if plot is not None:
        plot.write_text(coverage_chart(rows), encoding="utf-8")
    typer.echo(tables)
    missed = failures(rows)
    for line in missed:
        typer.echo(f"missed: {line}", err=True)
    raise typer.Exit(code=bool(missed))


if __name__ == "__main__":
    typer.run(main)
