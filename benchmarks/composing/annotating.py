"""Scored candidates of scenes, made once and kept on disk, so that the composer's rules are tried in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
from rich.console import Console
from rich.progress import track

from schemas.blocks import block_to_shard, shard_to_block
from schemas.config import RunConfig
from schemas.config_loading import config_hash
from schemas.shard import Shard, ShardImage
from synthworld.scenes import Scene, Split, make_scene
from synthworld.shards import scene_image, scene_shard
from workers.stages import STAGES, Stage

_CHUNK = 10


@lru_cache(maxsize=1)
def _stages(config_json: str) -> tuple[Stage, ...]:
    """The models of a configuration, loaded once a process."""
    config = RunConfig.model_validate_json(config_json)
    return tuple(kind.build(config) for kind in STAGES)


def _annotated_chunk(config_json: str, scenes: Sequence[Scene]) -> list[ShardImage]:
    """A few scenes after every stage; runs in a child process."""
    shard = scene_shard([scene_image(scene) for scene in scenes])
    for stage in _stages(config_json):
        shard = stage(shard)
    return [replace(image, data=b"") for image in shard.images]


def annotated_scenes(
    config: RunConfig, split: Split, num_scenes: int, *, folder: Path, processes: int, console: Console
) -> tuple[list[Scene], list[ShardImage]]:
    """Return scenes and their scored candidates, from `folder` where they stand there for this configuration."""
    scenes = [make_scene(split, position) for position in range(num_scenes)]
    path = folder / f"{split}-{num_scenes}-{config_hash(config)[:12]}.arrow"
    if not path.exists():
        starts = range(0, num_scenes, _CHUNK)
        with ProcessPoolExecutor(processes) as pool:
            jobs = [pool.submit(_annotated_chunk, config.model_dump_json(), scenes[s : s + _CHUNK]) for s in starts]
            shown = track(jobs, description=f"annotating {split} scenes, by tens", console=console)
            images = [image for job in shown for image in job.result()]
        _write(path, images)
    with pa.memory_map(str(path)) as file:
        block = pa.ipc.open_file(file).read_all()
    return scenes, list(block_to_shard(block).images)


def _write(path: Path, images: Sequence[ShardImage]) -> None:
    """Write all images as one block; the file takes its name last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbered = tuple(replace(image, position=position) for position, image in enumerate(images))
    block = shard_to_block(Shard(0, 0, numbered))
    unfinished = path.with_suffix(".unfinished")
    with pa.OSFile(str(unfinished), "wb") as file, pa.ipc.new_file(file, block.schema) as writer:
        writer.write_table(block)
    unfinished.rename(path)
