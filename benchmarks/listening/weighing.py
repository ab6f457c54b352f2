"""How many labelled scenes the composer's posterior needs: fitted on a few, its expressions judged on those asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.composing.fitting import fitted_weights
from benchmarks.listening.collecting import COMPOSERS, composed_alone
from benchmarks.listening.labels import draws_of, figures_of, spread
from benchmarks.quality.annotate import LISTENED, SHIPPED, SceneSet, Setting, annotated_chunk, annotated_scenes
from benchmarks.quality.jobs import run_jobs
from benchmarks.quality.options import Options
from schemas.composing import ComposingConfig
from schemas.shard import ShardImage
from synthworld.scenes import Scene
from training.evaluation.bootstrap import Sums

COUNTS: Final = (5, 20, 50, 200)
NUM_DRAWS: Final = 3
COMPOSER: Final = "weighing composer"
# Weights are fitted; what they are bounded by stays.
_FITTED: Final = (
    *("noun_share", "noun_correctness", "word_bias", "word_against", "word_share"),
    *("object_bias", "object_predicted_iou", "object_stability", "object_overlap"),
)


@dataclass(frozen=True)
class _Job:
    options: Options
    scenes: SceneSet
    chunk: range
    setting: Setting
    composers: tuple[ComposingConfig, ...]


def measure_weights(
    options: Options, development: SceneSet, asked: Mapping[str, SceneSet], setting: Setting = LISTENED
) -> list[dict[str, Any]]:
    """Return a row for each number of scenes: figures of what is composed alone, by the name of the scenes asked."""
    images = annotated_scenes(options, development, setting)
    places = range(development.count)
    fitted = [
        (count, _fitted([development.scene(at) for at in chosen], [images[at] for at in chosen]))
        for count in COUNTS
        if count <= development.count
        for chosen in draws_of(places, count, NUM_DRAWS)
    ]
    composers = tuple(config for _, config in fitted)
    figures = {name: _figures(options, scenes, setting, composers) for name, scenes in asked.items()}
    rows = []
    for count in dict.fromkeys(count for count, _ in fitted):
        at = [place for place, (each, _) in enumerate(fitted) if each == count]
        found = {name: spread([of_scenes[place] for place in at]) for name, of_scenes in figures.items()}
        rows.append({"scenes": count, "draws": len(at), "weights": _weights(fitted[at[0]][1]), **found})
    return rows


def _weights(config: ComposingConfig) -> dict[str, float]:
    """What was fitted, by name; of several draws the first."""
    return {name: getattr(config.posterior, name) for name in _FITTED}


def _fitted(scenes: Sequence[Scene], images: Sequence[ShardImage]) -> ComposingConfig:
    """The composer that ships, with weights of these scenes."""
    shipped = COMPOSERS[COMPOSER]
    if shipped.posterior is None:
        raise ValueError(f"the {COMPOSER} has no posterior")
    weights = fitted_weights(scenes, images, shipped.posterior.counts)
    posterior = shipped.posterior.model_copy(update={name: getattr(weights, name) for name in _FITTED})
    return shipped.model_copy(update={"posterior": posterior})


def _figures(
    options: Options, scenes: SceneSet, setting: Setting, composers: tuple[ComposingConfig, ...]
) -> list[list[float]]:
    """By composer, accuracy, yield and coverage on scenes that are annotated."""
    jobs = [_Job(options, scenes, chunk, setting, composers) for chunk in scenes.chunks]
    shown = f"composing on {scenes.world} {scenes.split} scenes"
    chunks = run_jobs(_compose_chunk, jobs, options.processes, shown=shown)
    return [figures_of([sums for chunk in chunks for sums in chunk[place]]) for place in range(len(composers))]


def _compose_chunk(job: _Job) -> list[list[Sums]]:
    """Count what each composer says of a chunk; runs in a child process."""
    images = annotated_chunk(job.options.out, job.scenes, job.chunk, job.setting, SHIPPED)
    scenes = [job.scenes.scene(at) for at in job.chunk]
    return [
        [composed_alone(scene, image, config) for scene, image in zip(scenes, images, strict=True)]
        for config in job.composers
    ]
