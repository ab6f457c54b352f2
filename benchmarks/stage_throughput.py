"""Measures images a second of each stage, in one process, on scenes of the synthetic world.

    python -m benchmarks.stage_throughput [--preset tiny] [--images 16] [--repeats 5] [--set KEY=VALUE …] [--json FILE]

Each stage is timed alone, on what the stage before it made. The last row is the filter stage on one image of 80 masks
with 30 texts each, without (baseline) and with the image boundary, which checks what an engine returns: seconds of the
process, and their ratio pair by pair.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

import numpy as np
import torch
from PIL import Image

from benchmarks.measurement import Row, median_seconds, options, peak_rss_bytes, report
from pseudoris.primitives import rle
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord, Shard, ShardImage
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.faults.image_boundary import ImageBoundary
from pseudoris.workers.masks.proposals import Kept, Proposals, mask_records
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


def crowded_image(num_masks: int = 80, num_texts: int = 30, side_px: int = 640) -> ShardImage:
    """Return an image of noise with square masks in rows, each with texts of its own."""
    pixels = np.random.default_rng(0).integers(0, 256, (side_px, side_px, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    masks = torch.zeros(num_masks, side_px, side_px, dtype=torch.bool)
    for number in range(num_masks):
        y, x = (64 * each for each in divmod(number, side_px // 64))
        masks[number, y : y + 60, x : x + 60] = True
    size, scores = (side_px, side_px), np.ones(num_masks)
    proposals = Proposals.of_masks(size, rle.encode(masks), scores, scores)
    records = mask_records("0" * 16, proposals, [Kept(row) for row in range(num_masks)])
    drawn = (CaptionSample("masked", "top_k", 1, None, -1.0),)
    texts = [f"{word} dog {number}" for word in ("red", "blue", "old") for number in range(num_texts // 3)]
    expressions = tuple(ExpressionRecord((mask.mask_id,), text, drawn) for mask in records for text in texts)
    image = ShardImage(0, "0" * 16, "crowded", file.getvalue(), sha256="0" * 64, height=side_px, width=side_px)
    return replace(image, masks=records, expressions=expressions)


def boundary_row(config: RunConfig, *, repeats: int) -> Row:
    """Return the seconds of the filter stage on a crowded image, without and with the boundary."""
    engine, shard = STAGES[2].engine(config)(config.filtering, config.compute), Shard(0, 0, (crowded_image(),))
    bounded = ImageBoundary(engine, STAGES[2].name, is_scored=True)
    if any(image.failure for image in bounded(shard).images):
        raise RuntimeError("the crowded image was quarantined")
    # Process time, one after the other: on a machine that does other work too, wall time says nothing about a tenth.
    pairs = [(_process_seconds(engine, shard), _process_seconds(bounded, shard)) for _ in range(repeats)]
    ratios = sorted(bounded_s / bare_s for bare_s, bounded_s in pairs)
    bare_s, bounded_s = map(median, zip(*pairs, strict=True))
    note = f"process time: {median(ratios):.3f} [{ratios[0]:.3f}, {ratios[-1]:.3f}] times, median of {repeats} pairs"
    return Row("filter, 80 masks of 30 texts, bounded", bare_s, bounded_s, peak_rss_bytes(), note)


def _process_seconds(stage: Callable[[Shard], Shard], shard: Shard) -> float:
    began_s = time.process_time()
    stage(shard)
    return time.process_time() - began_s


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, print the table, write the JSON."""
    given = options(__doc__, arguments)
    config = load_config(given.preset, assignments=given.assignments)
    rows = measure(config, num_images=given.images, repeats=given.repeats)
    report("stages, bare", [*rows, boundary_row(config, repeats=given.repeats)], given.json)


if __name__ == "__main__":
    main()
