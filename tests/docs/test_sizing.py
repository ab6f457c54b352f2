"""The tables of docs/guides/sizing.md follow from measured files and from what `annotate --dry-run` assumes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

from pseudoris.pipeline.annotation import BYTES_PER_DRAW, BYTES_PER_IMAGE, BYTES_PER_MASK, BYTES_PER_SHARD
from pseudoris.schemas.config_layers import load_config

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
SIZES = (10_000, 1_000_000, 50_000_000)
# What the page assumes.
NUM_MASKS, DRAWS_A_MASK, LOST, PRICE = 10, 44, 0.02, 3
# docs/records/scale.md: a start, and growth for each 1,000 shards of a window, which has 100,000 at most.
DRIVER_GB, DRIVER_STEP_GB, HEAD_GB, HEAD_STEP_GB, WINDOW = 0.25, 0.003, 1.0, 0.013, 100_000


def measured(name: str) -> dict[str, dict]:
    return {case["case"]: case for case in json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))}


def seconds() -> dict[str, float]:
    """Return the GPU seconds of an image of 10 masks."""
    sweep = measured("gpu-base-sweep")
    best = (
        "masks, masks.points_per_batch=1024",
        "captions, captions.crops_together=512",
        "filter, filtering.batch_size=1024",
    )
    return {
        "base": 1 / measured("gpu-base")["all stages, base, 2 scenes with 10 masks, bfloat16"]["rate"],
        "base, tuned": sum(1 / sweep[f"sweep, base, {each}"]["rate"] for each in best),
        "paper": 1 / measured("gpu-paper")["all stages, paper, 1 scenes with 10 masks, bfloat16"]["rate"],
    }


def shard_images(preset: str) -> int:
    return load_config(preset.partition(",")[0]).shards.max_images


def shown(value: float) -> str:
    """Return two digits that count, without an exponent."""
    return f"{round(value, 1 - math.floor(math.log10(value))):,.0f}" if value >= 100 else f"{value:.2g}"


def hour_rows() -> Iterator[str]:
    for images in SIZES:
        for preset, each_s in seconds().items():
            shard = shard_images(preset)
            shard_hours = min(shard, images) * each_s * (1 + LOST) / 3600
            hours = [shown(math.ceil(images / shard / gpus) * shard_hours) for gpus in (8, 64)]
            gpu_hours = images * each_s * (1 + LOST) / 3600
            yield f"| {images:,} | {preset} | {shown(gpu_hours)} | {' | '.join(hours)} | {shown(gpu_hours * PRICE)} |"


def byte_rows() -> Iterator[str]:
    for images in SIZES:
        num_shards = math.ceil(images / shard_images("base"))
        in_window = min(num_shards, WINDOW) / 1_000
        tables = num_shards * BYTES_PER_SHARD + images * (
            BYTES_PER_IMAGE + NUM_MASKS * (BYTES_PER_MASK + DRAWS_A_MASK * BYTES_PER_DRAW)
        )
        memory = (DRIVER_GB + DRIVER_STEP_GB * in_window, HEAD_GB + HEAD_STEP_GB * in_window)
        gb = " | ".join(f"{each:.2g}" for each in memory)
        yield f"| {images:,} | {num_shards:,} | {shown(tables / 1e9)} | {gb} |"


def test_the_page_shows_what_the_figures_give():
    page = (ROOT / "docs" / "guides" / "sizing.md").read_text(encoding="utf-8")
    rows = [*hour_rows(), *byte_rows()]
    assert [row for row in rows if row not in page] == [], "\n".join(rows)
    for preset, each_s in seconds().items():
        assert f"| {preset} | {each_s:.2f} |" in page
