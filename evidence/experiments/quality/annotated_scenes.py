"""Scenes annotated by the stages of a run, stored on disk so that several parts share them.

Files lie below OUT/scenes, a chunk of scenes each. Existing files are reused: the folder's name follows from the
scenes and from the whole method, weights included. A file gets its name when it is complete, so that an interrupted run
continues. Unless a setting says otherwise, every candidate is scored twice, at the paper's lower bound of a cosine and
at the shipped one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

import pyarrow as pa
from pyarrow import ipc
from pydantic import BaseModel

from evidence.benchmarks.measurement import digest_of
from evidence.experiments.process_pool import run_jobs
from evidence.experiments.quality.parts import Options
from evidence.recipes.scene_shards import SceneImage, scene_image, scene_shard
from pseudoris.schemas.config import ComputeConfig, FilterConfig, RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import Shard, ShardImage
from pseudoris.schemas.shard_blocks import block_to_shard, shard_to_block
from pseudoris.synthworld.scenes import DEFAULT_WORLD, Scene, Split, make_scene
from pseudoris.workers.filtering import ClipScorer
from pseudoris.workers.masks import SamProposer
from pseudoris.workers.stages import STAGES, Stage

CHUNK: Final = 20
# The lower bound of a cosine: as the authors clamp it, and as the configuration has it.
PAPER, SHIPPED = "paper", "shipped"
PAPER_MIN_COSINE: Final = 1e-4
PAPER_TAU: Final = 1.0


@dataclass(frozen=True)
class SceneSet:
    """`count` scenes of a split of a world, from the position `first` on."""

    split: Split
    count: int
    world: str = DEFAULT_WORLD
    seed: int = 0
    first: int = 0

    @property
    def chunks(self) -> list[range]:
        """The positions, a file's at a time."""
        end = self.first + self.count
        return [range(start, min(start + CHUNK, end)) for start in range(self.first, end, CHUNK)]

    def scene(self, position: int) -> Scene:
        """Return one of them."""
        return make_scene(self.split, position, seed=self.seed, world=self.world)

    def all(self) -> list[Scene]:
        """Return them in their order."""
        return [self.scene(position) for position in range(self.first, self.first + self.count)]


@dataclass(frozen=True)
class Setting:
    """One way to annotate: `tiny` under some assignments, on SAM's masks or on the truth's.

    Attributes:
        name: For folders and progress.
        assignments: As `--set` takes them.
        has_true_masks: Whether the truth's masks take the place of SAM's.
        bounds: Of a cosine, at which candidates are scored.
    """

    name: str
    assignments: tuple[str, ...] = ()
    has_true_masks: bool = False
    bounds: tuple[str, ...] = (PAPER, SHIPPED)

    def config(self) -> RunConfig:
        """Return the whole configuration."""
        return _config(self.assignments)

    def on_true_masks(self) -> Setting:
        """Return the same on the truth's masks."""
        return replace(self, name=f"{self.name}-truth-masks", has_true_masks=True)


@lru_cache(maxsize=64)
def _config(assignments: tuple[str, ...]) -> RunConfig:
    return load_config("tiny", assignments=assignments)


DISTINCTIVE: Final = Setting("distinctive")
# The same settings and the same draws; only nothing is subtracted.
NUCLEUS: Final = Setting("nucleus", ("captions.sampling.is_distinctive=false",))
# Every candidate is there to choose among, with all that a listener says of it.
LISTENED: Final = Setting(
    "listening", ("filtering.tau=0", "captions.listening={crops: [masked, context_1.2]}"), bounds=(SHIPPED,)
)


def filters(config: RunConfig) -> dict[str, FilterConfig]:
    """Return the filter's settings by the name of their lower bound."""
    return {PAPER: config.filtering.model_copy(update={"min_cosine": PAPER_MIN_COSINE}), SHIPPED: config.filtering}


def annotate(options: Options, scenes: SceneSet, settings: Sequence[Setting]) -> None:
    """Annotate the scenes under each setting, unless their files stand; a chunk's masks are proposed once."""
    jobs = [_AnnotationJob(options.out, scenes, chunk, tuple(settings)) for chunk in scenes.chunks]
    missing = [job for job in jobs if not all(job.is_done(setting) for setting in settings)]
    if missing:
        shown = f"annotating {scenes.world} {scenes.split} scenes"
        run_jobs(_annotate_chunk, missing, options.processes, shown=shown)


def annotated_scenes(options: Options, scenes: SceneSet, setting: Setting, bound: str = SHIPPED) -> list[ShardImage]:
    """Return the annotated images of the scenes, in their order and without their bytes; annotates what is missing."""
    annotate(options, scenes, (setting,))
    chunks = (annotated_chunk(options.out, scenes, chunk, setting, bound) for chunk in scenes.chunks)
    return [image for chunk in chunks for image in chunk]


def annotated_chunk(out: Path, scenes: SceneSet, chunk: range, setting: Setting, bound: str) -> tuple[ShardImage, ...]:
    """Return the annotated images of a chunk of `scenes.chunks`, without their bytes.

    Raises:
        FileNotFoundError: `annotate` was not called for them.
    """
    return _read(_AnnotationJob(out, scenes, chunk, ()).path(setting, bound)).images


@dataclass(frozen=True)
class _AnnotationJob:
    out: Path
    scenes: SceneSet
    chunk: range
    settings: tuple[Setting, ...]

    def path(self, setting: Setting, bound: str) -> Path:
        config = setting.config()
        method = (config.masks, config.captions, config.filtering, config.compute)
        return self._folder(setting.name, method, setting.has_true_masks) / f"{self._name}.{bound}.arrow"

    def is_done(self, setting: Setting) -> bool:
        return all(self.path(setting, bound).exists() for bound in setting.bounds)

    def masks_path(self, config: RunConfig) -> Path:
        counts = config.composing is not None and config.composing.has_too_small
        name = "counted-masks" if counts else "masks"
        return self._folder(name, (config.masks, config.compute), False) / f"{self._name}.arrow"

    @property
    def _name(self) -> str:
        # The end too: the last chunk of fewer scenes is no chunk of more.
        return f"{self.chunk.start:05d}-{self.chunk.stop:05d}"

    def _folder(self, name: str, method: Sequence[BaseModel], has_true_masks: bool) -> Path:
        said = [has_true_masks, *(part.model_dump(mode="json") for part in method)]
        digest = digest_of(said)[:8]
        return self.out / "scenes" / f"{self.scenes.world}-{self.scenes.split}-{self.scenes.seed}" / f"{name}-{digest}"


def _annotate_chunk(job: _AnnotationJob) -> None:
    images = [scene_image(job.scenes.scene(position)) for position in job.chunk]
    for setting in job.settings:
        if job.is_done(setting):
            continue
        config = setting.config()
        given = scene_shard(images, with_true_masks=True) if setting.has_true_masks else _proposed(job, config, images)
        captioned = _captioner(config.model_dump_json())(given)
        for bound in setting.bounds:
            score = _scorer(filters(config)[bound].model_dump_json(), config.compute.model_dump_json())
            _write(job.path(setting, bound), score(captioned))


def _proposed(job: _AnnotationJob, config: RunConfig, images: Sequence[SceneImage]) -> Shard:
    """The chunk with SAM's masks, out of their file where it stands."""
    path = job.masks_path(config)
    if not path.exists():
        _write(path, _proposer(config.model_dump_json())(scene_shard(images)))
    found = _read(path)
    with_bytes = zip(found.images, images, strict=True)
    return found.with_images(tuple(replace(image, data=item.data) for image, item in with_bytes))


def _write(path: Path, shard: Shard) -> None:
    """Write a shard without the images' bytes, which the scenes give anew."""
    failed = [image for image in shard.images if image.failure]
    if failed:
        raise RuntimeError(f"{failed[0].key} of {path} was quarantined: {failed[0].failure}")
    images = tuple(replace(image, data=b"") for image in shard.images)
    # Without what it took, too: the same annotation is the same file.
    block = shard_to_block(replace(shard, images=images, seconds={}))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
    with ipc.new_file(str(unfinished), block.schema, options=ipc.IpcWriteOptions(compression="zstd")) as file:
        file.write_table(block)
    unfinished.rename(path)


def _read(path: Path) -> Shard:
    with pa.OSFile(str(path)) as source, ipc.open_file(source) as file:
        return block_to_shard(file.read_all())


@lru_cache(maxsize=4)
def _proposer(config: str) -> SamProposer:
    return SamProposer.of_run(RunConfig.model_validate_json(config))


@lru_cache(maxsize=16)
def _captioner(config: str) -> Stage:
    return STAGES[1].build(RunConfig.model_validate_json(config))


@lru_cache(maxsize=4)
def _scorer(filtering: str, compute: str) -> ClipScorer:
    return ClipScorer(FilterConfig.model_validate_json(filtering), ComputeConfig.model_validate_json(compute))
