"""Fit the confidence on development scenes and tell its gain on test scenes: `python -m benchmarks.listening`.

The stages are those of a run, over SAM's masks, with the listener on and every candidate scored. Weights of each set of
features, and the bounds for each coverage aimed at, come from development scenes; test scenes are reported once, then
those of another world under the same weights and bounds. The scored candidates are kept in `--cache`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.listening.measuring import measure
from benchmarks.quality.annotate import SceneSet
from benchmarks.quality.options import Options
from synthworld.scenes import Split


def main(
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    cache: Annotated[Path, typer.Option(help="Where scored candidates are kept.")] = Path("bench-out/listening"),
    development: Annotated[int, typer.Option(min=2, help="Scenes to fit on.")] = 200,
    test: Annotated[int, typer.Option(min=2, help="Scenes to report.")] = 300,
    other_world: Annotated[str, typer.Option(help="World of the last part.")] = "second",
    other_test: Annotated[int, typer.Option(min=2, help="Scenes of it.")] = 150,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting of all runs.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Each holds the three models.")] = 2,
) -> None:
    """Print accuracy, yield and coverage of each rule, with paired differences."""
    asked = {"test": SceneSet(Split.TEST, test), other_world: SceneSet(Split.TEST, other_test, other_world)}
    options = Options(cache, processes=processes)
    found = measure(options, SceneSet(Split.DEVELOPMENT, development), asked, settings or ())
    for table in found.tables:
        Console(width=130).print(table)
    if json_path is not None:
        json_path.write_text(json.dumps(found.report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
