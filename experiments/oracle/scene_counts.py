"""Scenes annotated by the stages of a run, in a few processes, and counted under the names of the model card.

What is right is counted by `pseudoris.training.evaluation`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from rich.console import Console
from rich.progress import track

from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.shard import ExpressionRecord, Shard, ShardImage
from pseudoris.synthworld.scene_shards import SceneImage, scene_image, scene_shard
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.training.evaluation.counts import DECODERS, CandidateTable, Counts, count_image
from pseudoris.workers.captions import CocaCaptioner
from pseudoris.workers.filtering import ClipScorer
from pseudoris.workers.masks import SamProposer

TRUTH_SUFFIX = "_truth_masks"
NUCLEUS: Final = "accuracy_nucleus"
_FIGURES: Final = {
    "masks.recall_75": "mask_recall_75",
    "masks.recall_50": "mask_recall_50",
    "masks.proposals": "proposals_per_object",
    "beam.accuracy": "accuracy_beam",
    "sampling.accuracy": "accuracy_distinctive",
    "kept.accuracy": "accuracy_filtered",
    "kept.yield": "yield_filtered",
    "kept.coverage": "coverage_filtered",
    "group.seen": "accuracy_filtered_seen",
    "group.held_out": "accuracy_filtered_held_out",
}
_CHUNK = 10
SceneSums = dict[str, tuple[float, float]]
# Says whether an expression is kept.
Rule = Callable[[ExpressionRecord], bool]


@dataclass(frozen=True)
class EvaluationOptions:
    """Which scenes, on how many processes, and at which thresholds beside the configured one."""

    split: Split = Split.TEST
    num_scenes: int = 200
    processes: int = 2
    seed: int = 0
    taus: tuple[float, ...] = ()


def evaluate(config: RunConfig, options: EvaluationOptions, *, console: Console) -> list[SceneSums]:
    """Return numerator and denominator of each figure, scene by scene, in the split's order; progress on `console`."""
    starts = range(0, options.num_scenes, _CHUNK)
    chunks = [range(start, min(start + _CHUNK, options.num_scenes)) for start in starts]
    config_json = config.model_dump_json()
    with ProcessPoolExecutor(options.processes) as pool:
        jobs = [pool.submit(_evaluate_chunk, config_json, chunk, options) for chunk in chunks]
        shown = track(jobs, description="scenes, by tens", console=console)
        return [counts for job in shown for counts in job.result()]


def _evaluate_chunk(config_json: str, positions: range, options: EvaluationOptions) -> list[SceneSums]:
    """Counts of a few scenes; runs in a child process."""
    images = [scene_image(make_scene(options.split, position, seed=options.seed)) for position in positions]
    return _annotator(config_json).evaluate(images, options.taus)


@lru_cache(maxsize=1)
def _annotator(config_json: str) -> Annotator:
    """The models of a configuration, loaded once a process."""
    return Annotator(RunConfig.model_validate_json(config_json))


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
        scenes = _scene_counts(images, whole, self._nucleus(proposed), taus)
        true_scenes = _scene_counts(images, self._score(self._caption(given)), self._nucleus(given), taus)
        seconds = sum(whole.seconds.values()) / len(images)
        for counts, true_counts in zip(scenes, true_scenes, strict=True):
            counts.add("seconds_per_image", seconds, 1)
            counts.merge({f"{name}{TRUTH_SUFFIX}": pair for name, pair in true_counts.sums.items()})
        return [counts.sums for counts in scenes]


def _scene_counts(images: Sequence[SceneImage], scored: Shard, nucleus: Shard, taus: Sequence[float]) -> list[Counts]:
    """Counts of each scene of a scored shard and its nucleus twin."""
    result = []
    for truth, image, plain in zip(images, scored.images, nucleus.images, strict=True):
        counts = count_scene(truth, image)
        counts.merge(count_nucleus(truth, plain).sums)
        for tau in taus:
            counts.merge(count_at(truth, image, tau).sums)
        result.append(counts)
    return result


def count_scene(truth: SceneImage, image: ShardImage) -> Counts:
    """Return the figures of a scene annotated end to end."""
    found = _count(truth, image, lambda expression: expression.kept)
    return Counts({name: found[figure] for figure, name in _FIGURES.items() if figure in found})


def count_nucleus(truth: SceneImage, image: ShardImage) -> Counts:
    """Return the accuracy of the sampling decoders alone, as that of the nucleus baseline."""
    return Counts({NUCLEUS: _count(truth, image, lambda expression: expression.kept)["sampling.accuracy"]})


def count_at(truth: SceneImage, image: ShardImage, tau: float) -> Counts:
    """Return accuracy and yield of what another threshold would keep; a lone mask keeps all."""
    found = _count(truth, image, lambda each: each.distinctiveness is None or each.distinctiveness > tau)
    names = {"kept.accuracy": "accuracy_filtered", "kept.yield": "yield_filtered"}
    return Counts({f"{name}@{tau:g}": found[figure] for figure, name in names.items()})


def candidates_of(image: ShardImage, keeps: Rule) -> CandidateTable:
    """Return an annotated image of known size in columns, with what a rule keeps."""
    if image.height is None or image.width is None:
        raise ValueError(f"image {image.key} has no size: it is not proven")
    places = {name: place for place, name in enumerate(DECODERS)}
    draws = np.zeros((len(image.expressions), len(DECODERS) + 1), dtype=np.int64)
    for row, expression in enumerate(image.expressions):
        for sample in expression.samples:
            draws[row, places.get(sample.decoder, len(DECODERS))] += 1
    return CandidateTable(
        size=(image.height, image.width),
        mask_ids=[mask.mask_id for mask in image.masks],
        mask_counts=[mask.rle_counts for mask in image.masks],
        texts=[each.text for each in image.expressions],
        targets=[each.target_mask_ids for each in image.expressions],
        draws=draws,
        is_kept=np.array([keeps(each) for each in image.expressions], dtype=np.bool_),
        kinds=[each.kind for each in image.expressions],
        sources=[each.source for each in image.expressions],
    )


def _count(truth: SceneImage, image: ShardImage, keeps: Rule) -> dict[str, tuple[float, float]]:
    return count_image(SceneImageTruth(truth.scene, truth.masks), candidates_of(image, keeps)).sums
