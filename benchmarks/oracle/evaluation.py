"""Annotates scenes with the stages of a run and counts what is right, in a few processes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

from rich.console import Console
from rich.progress import track

from benchmarks.oracle.judging import count_at, count_nucleus, count_scene
from schemas.config import RunConfig
from schemas.shard import Shard
from synthworld.scenes import Split, make_scene
from synthworld.shards import SceneImage, scene_image, scene_shard
from training.evaluation.counting import Counts
from workers.captions import CocaCaptioner
from workers.filtering import ClipScorer
from workers.masks import SamProposer

TRUTH_SUFFIX = "_truth_masks"
SceneSums = dict[str, tuple[float, float]]
_CHUNK = 10


@dataclass(frozen=True)
class EvaluationOptions:
    """Which scenes, on how many processes, and at which thresholds beside the configured one."""

    split: Split = Split.TEST
    num_scenes: int = 200
    processes: int = 2
    seed: int = 0
    taus: tuple[float, ...] = ()


class Annotator:
    """The stages of one configuration, and the nucleus baseline: the same settings, the target's own distribution."""

    def __init__(self, config: RunConfig) -> None:
        """Load the models."""
        own = config.captions.sampling.model_copy(update={"is_distinctive": False})
        self._propose = SamProposer(config.masks, config.compute)
        self._caption = CocaCaptioner(config.captions, config.compute)
        self._nucleus = CocaCaptioner(config.captions.model_copy(update={"sampling": own}), config.compute)
        self._score = ClipScorer(config.filtering, config.compute)

    def evaluate(self, images: Sequence[SceneImage], taus: Sequence[float]) -> list[SceneSums]:
        """Return the counts of each scene, end to end and on the truth's masks."""
        proposed = self._propose(scene_shard(images))
        given = scene_shard(images, with_true_masks=True)
        whole = self._score(self._caption(proposed))
        scenes = _count(images, whole, self._nucleus(proposed), taus)
        true_scenes = _count(images, self._score(self._caption(given)), self._nucleus(given), taus)
        seconds = sum(whole.seconds.values()) / len(images)
        for counts, true_counts in zip(scenes, true_scenes, strict=True):
            counts.add("seconds_per_image", seconds, 1)
            counts.merge({f"{name}{TRUTH_SUFFIX}": pair for name, pair in true_counts.sums.items()})
        return [counts.sums for counts in scenes]


def _count(images: Sequence[SceneImage], scored: Shard, nucleus: Shard, taus: Sequence[float]) -> list[Counts]:
    """Counts of each scene of a scored shard and its nucleus twin."""
    result = []
    for truth, image, plain in zip(images, scored.images, nucleus.images, strict=True):
        counts = count_scene(truth, image)
        counts.merge(count_nucleus(truth, plain).sums)
        for tau in taus:
            counts.merge(count_at(truth, image, tau).sums)
        result.append(counts)
    return result


@lru_cache(maxsize=1)
def _annotator(config_json: str) -> Annotator:
    """The models of a configuration, loaded once a process."""
    return Annotator(RunConfig.model_validate_json(config_json))


def _evaluate_chunk(config_json: str, positions: range, options: EvaluationOptions) -> list[SceneSums]:
    """Counts of a few scenes; runs in a child process."""
    images = [scene_image(make_scene(options.split, position, seed=options.seed)) for position in positions]
    return _annotator(config_json).evaluate(images, options.taus)


def evaluate(config: RunConfig, options: EvaluationOptions, *, console: Console) -> list[SceneSums]:
    """Return numerator and denominator of each figure, scene by scene, in the split's order; progress on `console`."""
    starts = range(0, options.num_scenes, _CHUNK)
    chunks = [range(start, min(start + _CHUNK, options.num_scenes)) for start in starts]
    config_json = config.model_dump_json()
    with ProcessPoolExecutor(options.processes) as pool:
        jobs = [pool.submit(_evaluate_chunk, config_json, chunk, options) for chunk in chunks]
        shown = track(jobs, description="scenes, by tens", console=console)
        return [counts for job in shown for counts in job.result()]
