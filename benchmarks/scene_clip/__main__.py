"""Measure where the scene CLIP points: `python -m benchmarks.scene_clip [--scenes N] [--json F]`.

Over scenes that no weight was trained on: the share of captions that fit one object alone whose response map has its
maximum on that object's visible pixels. `category_alone` names the category of an object that is the scene's only one
of it; `full_description_among_alike` says all words of an object that shares its category with others.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.scene_clip.pointing import ARCHITECTURE, WEIGHTS, Pointer, point_at
from synthworld.scenes import Split, make_scene
from training.evaluation.bootstrap import ImageBootstrap
from training.evaluation.figures import interval_text, value_text


def main(
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    scenes: Annotated[int, typer.Option(min=1, help="How many scenes.")] = 500,
    split: Annotated[Split, typer.Option(help="Tune on development, report on test.")] = Split.TEST,
    weights: Annotated[str, typer.Option(help="Other weights of the same architecture.")] = WEIGHTS,
    surgical: Annotated[bool, typer.Option(help="Take off the mean response to all categories.")] = False,
) -> None:
    """Print how often the response map hits the object that a caption names."""
    torch.set_num_threads(1)
    pointer = Pointer(ARCHITECTURE, weights, is_surgical=surgical)
    shown = track(range(scenes), description="scenes", console=Console(stderr=True))
    bootstrap = ImageBootstrap([point_at(pointer, make_scene(split, position)) for position in shown])
    Console(width=100).print(_table(bootstrap, f"{scenes} {split} scenes, 95 % intervals over scenes"))
    if json_path is not None:
        json_path.write_text(json.dumps(_figures(bootstrap, scenes, split), indent=2) + "\n", encoding="utf-8")


def _table(bootstrap: ImageBootstrap, title: str) -> Table:
    """The printed table."""
    table = Table(title=title)
    table.add_column("figure")
    table.add_column("share", justify="right")
    table.add_column("captions", justify="right")
    for name in bootstrap.names:
        estimate = bootstrap.ratio(name)
        cell = f"{value_text(estimate, 3)}  {interval_text(estimate, 3)}"
        table.add_row(name, cell, f"{bootstrap.total(name)[1]:,.0f}")
    return table


def _figures(bootstrap: ImageBootstrap, scenes: int, split: Split) -> dict[str, object]:
    """The figures as JSON values."""
    report: dict[str, object] = {"scenes": scenes, "split": str(split)}
    for name in bootstrap.names:
        estimate = bootstrap.ratio(name)
        report[name] = estimate.value
        report[f"{name}_interval"] = [estimate.low, estimate.high]
        report[f"{name}_captions"] = int(bootstrap.total(name)[1])
    return report


if __name__ == "__main__":
    typer.run(main)
