"""Measure how good the annotation is: `python -m evidence.experiments.quality [--quick] [--only PART]… [--out FOLDER]`.

Each part's result is a JSON file in OUT. With the same fingerprint it is reused, so that an interrupted run continues;
delete the file to measure again. A whole run is also kept in evidence/experiments/results, and the page in docs is
written from there. A trial (`--quick`, `--max-scenes`, another `--seed`) leaves both alone, and writes its page into
OUT.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from evidence.benchmarks.measurement import cpu_seconds, machine
from evidence.experiments.quality.page import write_report
from evidence.experiments.quality.parts import (
    RECORDS,
    Options,
    Part,
    Record,
    WholeRun,
    load_parts,
    read_record,
    read_whole,
    record_path,
    run_part,
    write_record,
    write_whole,
)

DOCS = Path(__file__).parents[3] / "docs" / "records"


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer scenes and steps; the page goes to OUT.")] = False,
    only: Annotated[list[str] | None, typer.Option("--only", help="A part to run; may be repeated.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of results and of what is used again.")] = Path("quality-out"),
    docs: Annotated[Path | None, typer.Option(help="Where the page goes: docs/records, of a trial OUT.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Of one thread each.")] = 2,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    max_scenes: Annotated[int | None, typer.Option(min=1, help="No set of scenes is larger: a shorter run.")] = None,
    report_only: Annotated[bool, typer.Option("--report-only", help="Measure nothing; write the page anew.")] = False,
) -> None:
    """Run the parts, and write docs/records/quality.md from their results."""
    options = Options(out, is_quick=quick, processes=processes, seed=seed, max_scenes=max_scenes)
    parts = load_parts()
    kept_in = RECORDS if options.is_whole else out
    records = _kept(parts, kept_in, is_quick=quick)
    is_from_nothing = not (out.exists() and any(out.iterdir()))
    started, used = time.perf_counter(), cpu_seconds()
    for part in [] if report_only else _chosen(parts, only):
        record = run_part(part, options)
        records[part.name] = record
        if options.is_whole:
            write_record(record, record_path(RECORDS, part.name))
        typer.echo(f"{part.name:12} {record.seconds / 60:6.1f} min, {record.cpu_seconds / 60:6.1f} min of CPU")
    if is_from_nothing and not only and not report_only:
        took = WholeRun(machine(), round(time.perf_counter() - started, 1), round(cpu_seconds() - used, 1))
        write_whole(took, kept_in)
    folder = docs or (DOCS if options.is_whole else out)
    typer.echo(write_report(parts, records, folder, options, kept_in=kept_in, whole=read_whole(kept_in)))


def _chosen(parts: list[Part], only: list[str] | None) -> list[Part]:
    names = [part.name for part in parts]
    unknown = sorted(set(only or ()) - set(names))
    if unknown:
        raise typer.BadParameter(f"there is no part {unknown[0]!r}: one of {', '.join(names)} is allowed")
    return [part for part in parts if not only or part.name in only]


def _kept(parts: list[Part], folder: Path, *, is_quick: bool) -> dict[str, Record]:
    found = {part.name: read_record(record_path(folder, part.name)) for part in parts}
    return {name: record for name, record in found.items() if record and record.fingerprint.get("quick") == is_quick}


if __name__ == "__main__":
    typer.run(main)
