"""Measure how well `tiny` knows its domain: `python -m experiments.domain [--scenes N] [--photographs DIR] [--json F]`.

Of fresh scenes of each world, the share that is inside; of photographs, the share that is outside. The scenes are those
of the split `test`: no weight, no statistic and no threshold was made with them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from experiments.process_pool import run_jobs
from pseudoris.images.pixels import decode_upright
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.stage_settings import ImagesConfig
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.synthworld.worlds import WORLDS
from pseudoris.workers.domain_scorer import DomainScorer, load_scorer

# Scenes of a job: minutes of work, and a bar that moves.
_CHUNK: Final = 100
_PERCENTILES: Final = (50, 99, 99.9, 100)


@dataclass(frozen=True)
class SceneChunk:
    """Consecutive scenes of a world and a split."""

    split: Split
    world: str
    first: int
    count: int


def scorer() -> DomainScorer:
    """Return the scorer of `tiny`. Raises: RuntimeError: It has none."""
    found = load_scorer(load_config("tiny"))
    if found is None:
        raise RuntimeError("The preset tiny has no score of its domain.")
    return found


def score_scenes(chunk: SceneChunk) -> list[float]:
    """Return the score of each scene."""
    score = scorer()
    positions = range(chunk.first, chunk.first + chunk.count)
    return [score(render(make_scene(chunk.split, each, world=chunk.world)).image) for each in positions]


def score_files(files: Sequence[Path]) -> tuple[dict[str, float], float]:
    """Return the score of each image file by its name, and the milliseconds of an image, decoding not counted."""
    score, found, taken_s = scorer(), {}, 0.0
    for file in files:
        pixels = decode_upright(file.read_bytes(), ImagesConfig())
        began_s = time.perf_counter()
        found[file.name] = score(pixels)
        taken_s += time.perf_counter() - began_s
    return found, 1_000 * taken_s / max(1, len(files))


def world_figures(scores: Sequence[float], max_score: float) -> dict[str, float]:
    """Return how many scenes of a world are inside, and how their scores are spread."""
    inside = sum(score <= max_score for score in scores)
    spread = {f"p{share:g}": round(float(np.percentile(scores, share)), 4) for share in _PERCENTILES}
    return {"scenes": len(scores), "inside": inside, "share_inside": inside / len(scores), **spread}


def measure(split: Split, num_scenes: int, photographs: Path | None, processes: int) -> dict[str, object]:
    """Return all figures as JSON values."""
    max_score = scorer().statistics.max_score
    starts = range(0, num_scenes, _CHUNK)
    jobs = [SceneChunk(split, world, at, min(_CHUNK, num_scenes - at)) for world in WORLDS for at in starts]
    scores: dict[str, list[float]] = {world: [] for world in WORLDS}
    for job, found in zip(jobs, run_jobs(score_scenes, jobs, processes, shown="scenes"), strict=True):
        scores[job.world] += found
    report: dict[str, object] = {
        "split": str(split),
        "max_score": max_score,
        "worlds": {world: world_figures(each, max_score) for world, each in scores.items()},
    }
    if photographs is not None:
        scored, milliseconds = score_files(sorted(photographs.glob("*.jpg")))
        report["photographs"] = {
            "images": len(scored),
            "outside": sum(score > max_score for score in scored.values()),
            "lowest_scores": dict(sorted(scored.items(), key=lambda pair: pair[1])[:5]),
            "median_score": float(np.median(list(scored.values()))),
            "milliseconds_an_image": round(milliseconds, 1),
        }
    return report


def main(
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    scenes: Annotated[int, typer.Option(min=1, help="Scenes of each world.")] = 3_000,
    split: Annotated[Split, typer.Option(help="Tune on development, report on test.")] = Split.TEST,
    photographs: Annotated[Path | None, typer.Option(exists=True, help="A folder of JPEGs that are no scenes.")] = None,
    processes: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Print the share of fresh scenes that is inside, and of photographs that is outside."""
    report = measure(split, scenes, photographs, processes)
    Console(width=100).print(_table(report))
    if json_path is not None:
        json_path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _table(report: dict[str, object]) -> Table:
    table = Table(title=f"score of the domain, {report['split']} scenes; inside: at most {report['max_score']}")
    for name in ("images", "inside", "share", *(f"p{share:g}" for share in _PERCENTILES)):
        table.add_column(name, justify="left" if name == "images" else "right")
    worlds, photographs = report["worlds"], report.get("photographs")
    for world, row in worlds.items():  # type: ignore[attr-defined]
        spread = (f"{row[f'p{share:g}']:.3f}" for share in _PERCENTILES)
        table.add_row(f"{row['scenes']:,} of {world}", f"{row['inside']:,}", f"{row['share_inside']:.3%}", *spread)
    if isinstance(photographs, dict):
        inside = photographs["images"] - photographs["outside"]
        share = f"{inside / photographs['images']:.3%}"
        table.add_row(f"{photographs['images']} photographs", f"{inside}", share, f"{photographs['median_score']:.3f}")
    return table


if __name__ == "__main__":
    typer.run(main)
