"""Write the page of conformance, or measure what its declared elements change.

python -m evidence.experiments.conformance                  writes docs/records/conformance.md
python -m evidence.experiments.conformance measure          counts the scenes that no arm has counted yet
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from evidence.experiments.conformance.arm_counts import ArmCounter
from evidence.experiments.conformance.arms import (
    ARMS,
    ARMS_BY_NAME,
    NUM_SCENES,
    RECORD,
    extended,
    missing,
    read_record,
    write_record,
)
from evidence.experiments.conformance.page import PAGE, render

# Scenes between two writes of the record.
_CHUNK: Final = 20

app = typer.Typer(add_completion=False)


@app.callback(invoke_without_command=True)
def write(context: typer.Context) -> None:
    """Write docs/records/conformance.md."""
    if context.invoked_subcommand is None:
        PAGE.write_text(render(), encoding="utf-8")
        typer.echo(PAGE)


@app.command()
def measure(
    scenes: Annotated[int, typer.Option(min=1, help="How many scenes an arm is to have counted.")] = NUM_SCENES,
    only: Annotated[list[str] | None, typer.Option("--only", help="An arm to count; may be repeated.")] = None,
    record: Annotated[
        Path, typer.Option(help="Where counts are kept; those that stand there are not made again.")
    ] = RECORD,
) -> None:
    """Count arm by arm; a run that was stopped goes on."""
    unknown = sorted(set(only or ()) - set(ARMS_BY_NAME))
    if unknown:
        raise typer.BadParameter(f"there is no arm {unknown[0]!r}: one of {', '.join(ARMS_BY_NAME)} is allowed")
    counter = ArmCounter()
    for arm in ARMS:
        if only and arm.name not in only:
            continue
        while positions := missing(read_record(record), arm, scenes)[:_CHUNK]:
            write_record(extended(read_record(record), arm, counter.count(arm, positions)), record)
            typer.echo(f"{arm.name}: {positions.stop} of {scenes} scenes")


if __name__ == "__main__":
    app()
