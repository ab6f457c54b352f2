"""Small shards and stub engines with faults, for tests of what a process does about them."""

from __future__ import annotations

from pathlib import Path

from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.shard import Shard, ShardImage
from pseudoris.workers.faults.tolerant_stages import FaultTolerantStages
from tests.builders.images import png
from tests.builders.runs import stub_config

ALL = ("propose", "caption", "filter")


def shard_of(*names: str) -> Shard:
    """Return a shard of images that are called `names`."""
    images = (
        ShardImage(position, name, name, png(height=9, width=9, seed=position), "0" * 64, 9, 9)
        for position, name in enumerate(names)
    )
    return Shard(3, 0, tuple(images))


def faulty_config(tmp_path: Path, **options: object) -> RunConfig:
    """Return a configuration of stub engines; `options` of the stub proposer are its faults."""
    options.setdefault("tally", str(tmp_path / "tally"))
    return stub_config(
        "masks.points_per_batch=64", *(f"masks.options.{name}={value}" for name, value in options.items())
    )


def undisturbed(shard: Shard) -> tuple[ShardImage, ...]:
    """Return the images as stages without faults leave them."""
    return FaultTolerantStages(ALL, stub_config())(shard).images
