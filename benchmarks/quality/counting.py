"""Counts systems over scenes, and the scores that thresholds are chosen from; chunk by chunk, in a few processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.oracle.judging import candidates_of
from benchmarks.quality.annotate import SceneSet, Setting, annotate, annotated_chunk
from benchmarks.quality.jobs import run_jobs
from benchmarks.quality.options import Options
from benchmarks.quality.systems import Column, Draws, System, scores
from schemas.shard import ShardImage
from synthworld.truth import SceneImageTruth
from training.evaluation.counting import Candidates, Counts, count_image, match_image

Sums = dict[str, tuple[float, float]]
# Of the figures of `training.evaluation.counting`, those of a system's own expressions.
_KEPT: Final = "kept."
_APART: Final = ("difficulty.", "group.")
# The same for every system of a setting.
_OF_SETTING: Final = ("masks.", "beam.accuracy", "sampling.accuracy", "sampling.distinct")
# Why an expression is wrong, first reason that holds: its mask is no object; no sentence of the grammar; not true of
# its object; true of others too.
REASONS: Final = ("no object", "unreadable", "untrue", "ambiguous")


def count_systems(options: Options, scenes: SceneSet, systems: Sequence[System]) -> list[Sums]:
    """Return each scene's sums, by `<system>/<figure>` and `<setting>:<figure>`; annotates what is missing."""
    settings = tuple(dict.fromkeys(system.setting for system in systems))
    annotate(options, scenes, settings)
    jobs = [_Job(options.out, scenes, chunk, tuple(systems)) for chunk in scenes.chunks]
    chunks = run_jobs(_count_chunk, jobs, options.processes, shown=f"counting {scenes.world} {scenes.split} scenes")
    return [sums for chunk in chunks for sums in chunk]


@dataclass(frozen=True)
class _Job:
    out: Path
    scenes: SceneSet
    chunk: range
    systems: tuple[System, ...]


def _count_chunk(job: _Job) -> list[Sums]:
    """Count one chunk; runs in a child process."""
    truths = [SceneImageTruth(job.scenes.scene(position)) for position in job.chunk]
    counts = [Counts() for _ in truths]
    by_file: dict[tuple[Setting, str], list[System]] = defaultdict(list)
    for system in job.systems:
        by_file[system.setting, system.bound].append(system)
    seen: set[str] = set()
    for (setting, bound), systems in by_file.items():
        images = annotated_chunk(job.out, job.scenes, job.chunk, setting, bound)
        for truth, image, found in zip(truths, images, counts, strict=True):
            if setting.name not in seen:
                found.merge(_of_setting(truth, image, setting.name))
            for system in systems:
                found.merge(count_system(truth, image, system))
        seen.add(setting.name)
    return [found.sums for found in counts]


def count_system(truth: SceneImageTruth, image: ShardImage, system: System) -> Sums:
    """Return the sums of one system on one image, by `<system>/<figure>`."""
    said = system.said(image)
    # The others of its candidates count for no figure of what is said.
    said = replace(said, expressions=tuple(each for each in said.expressions if each.kept))
    candidates = candidates_of(said, lambda each: True)
    found = count_image(truth, candidates).sums
    own = {name.removeprefix(_KEPT): pair for name, pair in found.items() if name.startswith((_KEPT, *_APART))}
    return {f"{system.name}/{name}": pair for name, pair in (own | count_reasons(truth, candidates)).items()}


def count_reasons(truth: SceneImageTruth, said: Candidates) -> Sums:
    """Return by `wrong.<reason>` how many of an image's expressions, each of one mask, are wrong for it."""
    matched = match_image(truth, said).object_of_mask
    wrong = dict.fromkeys(REASONS, 0.0)
    for text, (target,) in zip(said.texts, said.targets, strict=True):
        number = matched.get(target)
        referents = truth.referents(text)
        if number is None:
            wrong["no object"] += 1
        elif referents is None:
            wrong["unreadable"] += 1
        elif number not in referents:
            wrong["untrue"] += 1
        elif len(referents) > 1:
            wrong["ambiguous"] += 1
    return {f"wrong.{reason}": (count, float(len(said.texts))) for reason, count in wrong.items()}


def _of_setting(truth: SceneImageTruth, image: ShardImage, name: str) -> Sums:
    found = count_image(truth, candidates_of(image, lambda each: True)).sums
    return {f"{name}:{figure}": pair for figure, pair in found.items() if figure.startswith(_OF_SETTING)}


@dataclass(frozen=True)
class ScoreTable:
    """The scores of all candidates of some scenes, NaN where a mask is alone, and how many masks there are."""

    columns: Mapping[Column, np.ndarray]
    num_masks: int

    def threshold_at(self, column: Column, yield_a_mask: float) -> float:
        """Return the threshold above which about so many candidates a mask score.

        Candidates without a score are said whatever the threshold, and count. Asked for more than there are, it is
        below all scores.
        """
        values = self.columns[column]
        known = np.sort(values[np.isfinite(values)])[::-1]
        wanted = round(yield_a_mask * self.num_masks) - (len(values) - len(known))
        if wanted >= len(known):
            return 0.0
        return float(known[max(wanted, 0)])

    def yield_above(self, column: Column, threshold: float) -> float:
        """Return how many candidates a mask score above a threshold."""
        return float((~(self.columns[column] <= threshold)).sum() / self.num_masks)


@lru_cache(maxsize=32)
def score_table(options: Options, scenes: SceneSet, setting: Setting, bound: str, draws: Draws) -> ScoreTable:
    """Return the scores of the candidates of some draws; annotates what is missing."""
    annotate(options, scenes, (setting,))
    names: tuple[Column, ...] = ("uniqueness", "correctness", "distinctiveness")
    images = [draws.of(image) for image in _images(options.out, scenes, setting, bound)]
    columns = {name: np.concatenate([scores(image, name) for image in images]) for name in names}
    return ScoreTable(columns, sum(len(image.masks) for image in images))


def _images(out: Path, scenes: SceneSet, setting: Setting, bound: str) -> Iterable[ShardImage]:
    return (image for chunk in scenes.chunks for image in annotated_chunk(out, scenes, chunk, setting, bound))
