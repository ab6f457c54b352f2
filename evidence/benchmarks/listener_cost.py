"""Measures what the listener adds to captioning: the least of some rounds over development scenes.

    python -m evidence.benchmarks.listener_cost [--scenes 20] [--rounds 3] [--json FILE]

Seconds are of the processor, on one thread, over the same proposed masks; pairs are (prefix, crop) pairs that the
decoder computed. The part `listening` of quality.md calls `measure_cost`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import torch

from evidence.benchmarks.measurement import options, print_table, write_json
from evidence.recipes.scene_shards import scene_image, scene_shard
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import Shard
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.captions import CocaCaptioner
from pseudoris.workers.masks import SamProposer

LISTENERS: Final = {
    "none": [],
    "one crop kind": ["captions.listening={}"],
    "two crop kinds": ["captions.listening={crops: [masked, context_1.2]}"],
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print seconds and pairs an image, by what is listened to, and write the JSON."""
    given = options(__doc__, arguments)
    report = measure_cost(given.scenes, given.rounds)
    rows = [
        {
            "listener": name,
            "CPU s an image": f"{each['cpu_s_an_image']:.3f}",
            "of captioning": f"{each['share_of_captioning']:+.0%}",
            "pairs an image": f"{each['pairs_an_image']:.0f}",
        }
        for name, each in report["listeners"].items()
    ]
    print_table(f"captioning of {given.scenes} scenes, {report['masks']} masks", rows)
    write_json(report, given.json)


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
    main()
