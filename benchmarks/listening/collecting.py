"""The candidates of annotated scenes with all their scores, what is composed of them, and the oracle's verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Final

import numpy as np

from benchmarks.oracle.judging import candidates_of
from benchmarks.quality.annotate import SHIPPED, SceneSet, Setting, annotate, annotated_chunk
from benchmarks.quality.jobs import run_jobs
from benchmarks.quality.options import Options
from schemas.composing import ComposingConfig
from schemas.confidence import CONFIDENCE_COLUMNS, Rated
from schemas.keeping import Flags, Floats
from schemas.shard import SOURCE_COMPOSER, ShardImage
from synthworld.scenes import Scene
from synthworld.truth import SceneImageTruth
from training.evaluation.counting import judge, match_image
from workers.composing.composer import Composer

# As they ship, and with less evidence asked for: more objects are spoken of, and more of it is wrong.
COMPOSERS: Final[Mapping[str, ComposingConfig]] = {
    "composer": ComposingConfig(),
    "looser composer": ComposingConfig(min_noun=0.6, min_word=0.3),
}


@dataclass(frozen=True)
class Composed:
    """What is composed of one scene: (T,) bool, right; (T,) int64, its mask's object, -1 where that is none."""

    is_right: Flags
    targets: np.ndarray


@dataclass(frozen=True)
class SceneRows:
    """One scene's T candidates.

    Attributes:
        rated: As the filter stage has them; groups are mask ids.
        is_right: (T,) bool, refers to its mask's object and to nothing else.
        targets: (T,) int64, its mask's object; -1 where that is none.
        num_masks: Masks of the image.
        num_visible: Objects of the truth with a pixel.
        composed: Expressions of one mask each, by composer.
    """

    rated: Rated
    is_right: Flags
    targets: np.ndarray
    num_masks: int
    num_visible: int
    composed: Mapping[str, Composed] = field(default_factory=dict)


@dataclass(frozen=True)
class _Job:
    options: Options
    scenes: SceneSet
    chunk: range
    setting: Setting


def collect(options: Options, scenes: SceneSet, setting: Setting) -> list[SceneRows]:
    """Return each scene's candidates under a setting that has the shipped bound; annotates what is missing."""
    annotate(options, scenes, (setting,))
    jobs = [_Job(options, scenes, chunk, setting) for chunk in scenes.chunks]
    chunks = run_jobs(_judge_chunk, jobs, options.processes, shown=f"judging {scenes.world} {scenes.split} scenes")
    return [rows for chunk in chunks for rows in chunk]


def _judge_chunk(job: _Job) -> list[SceneRows]:
    """Judge one chunk; runs in a child process."""
    images = annotated_chunk(job.options.out, job.scenes, job.chunk, job.setting, SHIPPED)
    return [scene_rows(job.scenes.scene(at), image) for at, image in zip(job.chunk, images, strict=True)]


def scene_rows(scene: Scene, image: ShardImage) -> SceneRows:
    """Return the candidates of a scene's annotation, each of one mask."""
    said = candidates_of(image, lambda expression: expression.kept)
    truth = SceneImageTruth(scene)
    matched = match_image(truth, said)
    verdicts = judge(truth, said, matched.object_of_mask)
    # A score that is None, where there is nothing to compare with, becomes NaN.
    scores: dict[str, Floats] = {
        name: np.array([getattr(each, name) for each in image.expressions], np.float64)
        for name in CONFIDENCE_COLUMNS[:-1]
    }
    scores["count"] = np.array([len(each.samples) for each in image.expressions], np.float64)
    groups = [each.target_mask_ids[0] for each in image.expressions]
    return SceneRows(
        rated=Rated(groups, list(said.texts), scores),
        is_right=verdicts.is_right,
        targets=verdicts.target,
        num_masks=len(image.masks),
        num_visible=int(matched.is_visible.sum()),
        composed={name: _composed(image, truth, name) for name in COMPOSERS},
    )


def _composed(image: ShardImage, truth: SceneImageTruth, name: str) -> Composed:
    """Return what a composer says of an annotated image."""
    said = _composer(name)(image).expressions
    alone = tuple(each for each in said if each.source == SOURCE_COMPOSER and len(each.target_mask_ids) == 1)
    candidates = candidates_of(replace(image, expressions=alone), lambda expression: True)
    verdicts = judge(truth, candidates, match_image(truth, candidates).object_of_mask)
    return Composed(verdicts.is_right, verdicts.target)


@cache
def _composer(name: str) -> Composer:
    return Composer(COMPOSERS[name])
