"""Measure the annotation of scenes by their truth: `python -m evidence.experiments.oracle [--json F] [--scenes N]`.

The stages are those of a run. End to end they start from SAM's masks; with the suffix `_truth_masks` from the truth's.
A caption that cannot be parsed and a mask that is no object's (best IoU < 0.5, one-to-one) count as wrong. Thresholds
are chosen with `--split development --tau 1.0 --tau 1.1 …` and reported once with `--split test`, the default.
Other experiments judge by `candidates_of` and `judged`, and tests hold the shipped models to floors of these figures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer

from evidence.experiments.process_pool import run_jobs
from evidence.experiments.quality.markdown_cells import markdown_table
from evidence.recipes.scene_shards import SceneImage, scene_image, scene_shard
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.estimate import Estimate, ImageBootstrap
from pseudoris.schemas.shard import ExpressionRecord, Shard, ShardImage
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.training.evaluation.truth import (
    DECODERS,
    CandidateTable,
    ImageTruth,
    MatchedMasks,
    Verdicts,
    count_image,
    judge,
    match_image,
)
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
HEADLINE = (
    "mask_recall_75",
    "accuracy_beam",
    "accuracy_nucleus",
    "accuracy_distinctive",
    "accuracy_filtered",
    "yield_filtered",
    "coverage_filtered",
)
STEPS = (
    ("accuracy_distinctive", "accuracy_beam"),
    ("accuracy_distinctive", "accuracy_nucleus"),
    ("accuracy_filtered", "accuracy_distinctive"),
)


@dataclass(frozen=True)
class EvaluationOptions:
    """Which scenes, on how many processes, and at which thresholds beside the configured one."""

    split: Split = Split.TEST
    num_scenes: int = 200
    processes: int = 2
    seed: int = 0
    taus: tuple[float, ...] = ()


def evaluate(config: RunConfig, options: EvaluationOptions) -> list[SceneSums]:
    """Return numerator and denominator of each figure, scene by scene, in the split's order."""
    starts = range(0, options.num_scenes, _CHUNK)
    chunks = [range(start, min(start + _CHUNK, options.num_scenes)) for start in starts]
    evaluate_chunk = partial(_evaluate_chunk, config.model_dump_json(), options)
    found = run_jobs(evaluate_chunk, chunks, options.processes, shown="scenes, by tens")
    return [counts for chunk in found for counts in chunk]


def _evaluate_chunk(config_json: str, options: EvaluationOptions, positions: range) -> list[SceneSums]:
    images = [scene_image(make_scene(options.split, position, seed=options.seed)) for position in positions]
    return _annotator(config_json).evaluate(images, options.taus)


@lru_cache(maxsize=1)
def _annotator(config_json: str) -> Annotator:
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
            counts["seconds_per_image"] = seconds, 1.0
            counts |= {f"{name}{TRUTH_SUFFIX}": pair for name, pair in true_counts.items()}
        return scenes


def _scene_counts(
    images: Sequence[SceneImage], scored: Shard, nucleus: Shard, taus: Sequence[float]
) -> list[SceneSums]:
    result = []
    for truth, image, plain in zip(images, scored.images, nucleus.images, strict=True):
        counts = count_scene(truth, image)
        counts |= count_nucleus(truth, plain)
        for tau in taus:
            counts |= count_at(truth, image, tau)
        result.append(counts)
    return result


def count_scene(truth: SceneImage, image: ShardImage) -> SceneSums:
    """Return the figures of a scene annotated end to end."""
    found = _count(truth, image, lambda expression: expression.kept)
    return {name: found[figure] for figure, name in _FIGURES.items() if figure in found}


def count_nucleus(truth: SceneImage, image: ShardImage) -> SceneSums:
    """Return the accuracy of the sampling decoders alone, as that of the nucleus baseline."""
    return {NUCLEUS: _count(truth, image, lambda expression: expression.kept)["sampling.accuracy"]}


def count_at(truth: SceneImage, image: ShardImage, tau: float) -> SceneSums:
    """Return accuracy and yield of what another threshold would keep; a lone mask keeps all."""
    found = _count(truth, image, lambda each: each.distinctiveness is None or each.distinctiveness > tau)
    names = {"kept.accuracy": "accuracy_filtered", "kept.yield": "yield_filtered"}
    return {f"{name}@{tau:g}": found[figure] for figure, name in names.items()}


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


def judged(truth: ImageTruth, image: ShardImage, said: Sequence[ExpressionRecord]) -> tuple[MatchedMasks, Verdicts]:
    """Return which mask of an image is which object, and the verdicts on expressions of it."""
    candidates = candidates_of(replace(image, expressions=tuple(said)), lambda each: True)
    matched = match_image(truth, candidates)
    return matched, judge(truth, candidates, matched.object_of_mask)


def _count(truth: SceneImage, image: ShardImage, keeps: Rule) -> SceneSums:
    return count_image(SceneImageTruth(truth.scene, truth.masks), candidates_of(image, keeps))


def figures(bootstrap: ImageBootstrap) -> dict[str, float | list[float]]:
    """Return each figure, its 95 % interval under `<name>_interval`, and the paired steps, as JSON values."""
    report: dict[str, float | list[float]] = {}
    for name in bootstrap.names:
        _add(report, name, bootstrap.ratio(name))
    for suffix in ("", TRUTH_SUFFIX):
        for better, worse in STEPS:
            step = bootstrap.difference(better + suffix, worse + suffix)
            _add(report, f"{better}_minus_{worse.removeprefix('accuracy_')}{suffix}", step)
    return report


def _add(report: dict[str, float | list[float]], name: str, estimate: Estimate) -> None:
    report[name] = estimate.value
    report[f"{name}_interval"] = [estimate.low, estimate.high]


def report_table(bootstrap: ImageBootstrap, options: EvaluationOptions) -> str:
    """Return the printed table: end to end beside the truth's masks, then the paired steps."""

    def both(name: str) -> list[str]:
        known = (each in bootstrap.names and bootstrap.ratio(each) for each in (name, name + TRUTH_SUFFIX))
        return [each.text(3) if each else "" for each in known]

    further = [n for n in bootstrap.names if n not in HEADLINE and not n.endswith(TRUTH_SUFFIX)]
    rows = [(name, *both(name)) for name in (*HEADLINE, *further)]
    for better, worse in STEPS:
        steps = [bootstrap.difference(better + suffix, worse + suffix) for suffix in ("", TRUTH_SUFFIX)]
        said = (step.text(3, sign="+") for step in steps)
        rows.append((f"{better} − {worse.removeprefix('accuracy_')}", *said))
    header = (f"{options.num_scenes} {options.split} scenes", "SAM's masks", "truth's masks")
    return markdown_table(header, rows)


def main(
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    scenes: Annotated[int, typer.Option(min=1, help="How many scenes.")] = 200,
    split: Annotated[Split, typer.Option(help="Tune on development, report on test.")] = Split.TEST,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting, such as filtering.tau=1.1.")] = None,
    taus: Annotated[list[float] | None, typer.Option("--tau", help="Count at this threshold too.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Each holds the three models.")] = 2,
) -> None:
    """Print how accurate the annotation of fresh scenes is."""
    config = load_config("tiny", None, settings or [])
    options = EvaluationOptions(split=split, num_scenes=scenes, processes=processes, taus=tuple(taus or ()))
    bootstrap = ImageBootstrap(evaluate(config, options))
    typer.echo(report_table(bootstrap, options))
    if json_path is not None:
        json_path.write_text(json.dumps(figures(bootstrap), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
