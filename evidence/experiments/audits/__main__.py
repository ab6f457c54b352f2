"""Simulate audits whose truth is known, and say whether their intervals hold it.

    python -m evidence.experiments.audits [--json FILE]
        [--page docs/records/appendix/audits.md] [--plot docs/records/appendix/audits.svg]

Two thousand audits of each of twelve populations take eight minutes of one core. `--audits 100` is a trial,
which writes nothing into docs or results. It ends with 1 if an interval misses what is promised.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evidence.experiments.audits.page import BEGIN, END, Row, as_markdown, coverage_chart, put_rows
from evidence.experiments.audits.populations import POPULATIONS
from evidence.experiments.audits.simulated_audits import ACCURACIES, NUM_AUDITS, Job, failures, search, simulate
from evidence.experiments.process_pool import run_jobs
from evidence.experiments.quality.markdown_cells import put_into

_WHOLE_ONLY = tuple(Path(__file__).parents[3] / name for name in ("docs", "evidence/experiments/results"))


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
    found = [each for work, shown in parts for each in run_jobs(work, jobs, processes, shown=shown)]
    rows: list[Row] = [row for each in found for row in each]
    if json_path is not None:
        rows = put_rows(json_path, rows, is_drawn=False)
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
