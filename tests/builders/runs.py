"""Runs for tests of the pipeline: a small source with broken images in it, and a configuration of stub engines."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.tables import SCHEMAS
from tests.builders.images import png
from tests.builders.sources import write_files

STUBS = ("masks.engine=stub", "captions.engine=stub", "filtering.engine=stub", "compute.device=none")
# A tau of our own: the preset's follows its weights, and the stubs' scores do not.
SMALL = ("shards.max_images=4", "placement.fused.max_actors=1", "filtering.tau=1.0")
BROKEN: Mapping[str, bytes] = {"a/empty.png": b"", "b/words.jpg": b"not an image at all", "c/cut.png": png()[:60]}


def stub_config(*assignments: str) -> RunConfig:
    """Return a configuration of stub engines, one actor and shards of four images, `assignments` on top."""
    return load_config("tiny", None, [*STUBS, *SMALL, *assignments])


def write_source(folder: Path, num_images: int = 18) -> Path:
    """Write `num_images` sound images and those of `BROKEN` into `folder`, and return it."""
    sound = {f"{'abc'[n % 3]}/image-{n:03d}.png": png(6 + n % 5, 9, seed=n) for n in range(num_images)}
    return write_files(folder, {**sound, **BROKEN})


def part_digests(out: Path) -> dict[str, str]:
    """Return the sha256 of every part of a run by its path: what promise 2 is about."""
    files = (path for table in SCHEMAS for path in (out / table).glob("*.parquet"))
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
