"""Measures images a second of each stage, in one process, on scenes of the synthetic world.

    python -m benchmarks.stage_throughput [--preset tiny] [--images 16] [--repeats 5] [--set KEY=VALUE …] [--json FILE]

Each stage is timed alone, on what the stage before it made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.measurement import Row, median_seconds, options, peak_rss_bytes, report
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import Shard
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.stages import STAGES
from recipes.scene_shards import scene_image, scene_shard


def measure(config: RunConfig, *, num_images: int, repeats: int) -> list[Row]:
    """Return a row a stage: median seconds for a shard of `num_images` scenes, fed with the stage before."""
    stages: dict[str, Callable[[Shard], Shard]] = {
        "propose": STAGES[0].engine(config)(config.masks, config.compute),
        "caption": STAGES[1].engine(config)(config.captions, config.compute),
        "filter": STAGES[2].engine(config)(config.filtering, config.compute),
    }
    shard = scene_shard([scene_image(make_scene(Split.DEMO, position)) for position in range(num_images)])
    rows = []
    for name, stage in stages.items():
        before = shard
        seconds = median_seconds(lambda: stage(before), repeats=repeats)  # noqa: B023 -- called before the loop moves on
        shard = stage(before)
        note = f"{num_images / seconds:.2f} images/s"
        rows.append(Row(f"{name}, {config.preset}, {num_images} scenes", None, seconds, peak_rss_bytes(), note))
    total = sum(row.ours_s for row in rows)
    num_masks = sum(len(image.masks) for image in shard.images)
    note = f"{num_images / total:.2f} images/s, {num_masks / num_images:.1f} masks an image"
    return [*rows, Row(f"all stages, {config.preset}", None, total, peak_rss_bytes(), note)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, print the table, write the JSON."""
    given = options(__doc__, arguments)
    config = load_config(given.preset, assignments=given.assignments)
    report("stages, bare", measure(config, num_images=given.images, repeats=given.repeats), given.json)


if __name__ == "__main__":
    main()
