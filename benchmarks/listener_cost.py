"""Measures what the listener adds to captioning: `python -m benchmarks.listener_cost [--scenes N] [--json F]`.

Seconds are of the processor, on one thread, over the same proposed masks; pairs are (prefix, crop) pairs that the
decoder computed.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from rich.console import Console
from rich.table import Table

from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import Shard
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.captions import CocaCaptioner
from pseudoris.workers.masks import SamProposer
from recipes.scene_shards import scene_image, scene_shard

LISTENERS: Final = {
    "none": [],
    "one crop kind": ["captions.listening={}"],
    "two crop kinds": ["captions.listening={crops: [masked, context_1.2]}"],
}


def main(
    scenes: Annotated[int, typer.Option(min=1, help="Development scenes.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="The least of so many counts.")] = 3,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Print seconds and pairs an image, by what is listened to."""
    report = measure_cost(scenes, rounds)
    table = Table(title=f"captioning of {scenes} scenes, {report['masks']} masks")
    for header in ("listener", "CPU s an image", "of captioning", "pairs an image"):
        table.add_column(header, justify="left" if header == "listener" else "right")
    for name, each in report["listeners"].items():
        share = f"{each['share_of_captioning']:+.0%}"
        table.add_row(name, f"{each['cpu_s_an_image']:.3f}", share, f"{each['pairs_an_image']:.0f}")
    Console().print(table)
    if json_path is not None:
        json_path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def measure_cost(scenes: int, rounds: int) -> dict[str, Any]:
    """Return CPU seconds and pairs an image by listener, the least of some rounds, and by how much it adds to none."""
    torch.set_num_threads(1)
    config = load_config("tiny")
    images = [scene_image(make_scene(Split.DEVELOPMENT, position)) for position in range(scenes)]
    shard = SamProposer(config.masks, config.compute)(scene_shard(images))
    captioners = {name: _captioner(settings) for name, settings in LISTENERS.items()}
    seconds = {name: min(_seconds(captioner, shard) for _ in range(rounds)) for name, captioner in captioners.items()}
    return {
        "scenes": scenes,
        "masks": sum(len(image.masks) for image in shard.images),
        "listeners": {
            name: {
                "cpu_s_an_image": round(seconds[name] / scenes, 4),
                "share_of_captioning": round(seconds[name] / seconds["none"] - 1, 3),
                "pairs_an_image": round(captioner.num_pairs / (scenes * rounds), 1),
            }
            for name, captioner in captioners.items()
        },
    }


def _captioner(settings: list[str]) -> CocaCaptioner:
    config = load_config("tiny", None, settings)
    return CocaCaptioner(config.captions, config.compute)


def _seconds(captioner: CocaCaptioner, shard: Shard) -> float:
    started = time.process_time()
    captioner(shard)
    return time.process_time() - started


if __name__ == "__main__":
    typer.run(main)
