"""Scored candidates of scenes, made once and kept on disk, so that the composer's rules are tried in seconds."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from rich.console import Console
from rich.progress import track

from schemas.config import RunConfig
from schemas.config_loading import config_hash
from schemas.shard import ShardImage
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
    path = folder / f"{split}-{num_scenes}-{config_hash(config)[:12]}.pickle"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        starts = range(0, num_scenes, _CHUNK)
        with ProcessPoolExecutor(processes) as pool:
            jobs = [pool.submit(_annotated_chunk, config.model_dump_json(), scenes[s : s + _CHUNK]) for s in starts]
            shown = track(jobs, description=f"annotating {split} scenes, by tens", console=console)
            images = [image for job in shown for image in job.result()]
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_bytes(pickle.dumps(images))
        unfinished.rename(path)
    # Our own file of a moment ago, on our own disk: nothing untrusted is unpickled.
    return scenes, pickle.loads(path.read_bytes())
