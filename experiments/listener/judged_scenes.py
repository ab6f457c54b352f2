"""The candidates of annotated scenes with their scores, the composed expressions, and the oracle's verdicts.

Also which of a scene's candidates a rule keeps, and its figures, with intervals over scenes and paired differences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from experiments.oracle import candidates_of
from experiments.process_pool import run_jobs
from experiments.quality.annotated_scenes import PAPER_TAU, SHIPPED, SceneSet, Setting, annotate, annotated_chunk
from experiments.quality.markdown_cells import as_json
from experiments.quality.parts import Options
from experiments.quality.scene_runs import said_by_annotators
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.fitted import ConfidenceConfig, Rated
from pseudoris.schemas.keep_rule import Flags, KeepRule, keeps
from pseudoris.schemas.shard import SOURCE_COMPOSER, ShardImage
from pseudoris.schemas.stage_settings import ComposedKind
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.synthworld.scenes import Scene
from pseudoris.training.calibration.confidence_fit import (
    CLIP,
    EVERYTHING,
    JUDGED_COLUMNS,
    LISTENER,
    VOTE,
    AlwaysKept,
    Bounds,
    JudgedImage,
    judge_image,
)
from pseudoris.training.evaluation.bootstrap import ImageBootstrap, Sums
from pseudoris.training.evaluation.human_truth import HumanImageTruth
from pseudoris.training.evaluation.truth import judge, match_image
from pseudoris.workers.composing.composer import Composer, composer_of

# Of one mask each.
WEIGHED_KINDS: Final[tuple[ComposedKind, ...]] = ("attribute", "position", "relation")
# What is weighed, from what a run has in any case to everything.
FEATURE_SETS: Final[Mapping[str, tuple[str, ...]]] = {
    "clip": CLIP,
    "clip+vote": VOTE,
    "clip+listener": (*CLIP, *LISTENER),
    "all": EVERYTHING,
}
FIGURES: Final = ("accuracy", "yield", "coverage")


_EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "listener-composer.yaml"
# Of what a listener says, as examples/listener-composer.yaml sets it, or of draws alone.
COMPOSERS: Final[Mapping[str, Composer]] = {
    "weighing composer": composer_of(load_config("tiny", _EXAMPLE)),
    "weighing draws": composer_of(
        load_config("tiny", None, [f"composing={{kinds: [{', '.join(WEIGHED_KINDS)}], max_per_mask: 4}}"])
    ),
}


def settings_of(composer: Composer) -> dict[str, Any]:
    """Return what decides what a composer says, as plain JSON values."""
    return {
        **composer.config.model_dump(mode="json"),
        "posterior": composer.posterior.model_dump(mode="json"),
    }


@dataclass(frozen=True, eq=False)
class SceneRows(JudgedImage):
    """One scene's candidates, judged by the oracle.

    Attributes:
        composed: By composer, what it says of one mask each.
        is_right_by_sentences: (T,) bool, what `pseudoris evaluate` makes of each from simulated sentences alone.
    """

    composed: Mapping[str, AlwaysKept] = field(default_factory=dict)
    is_right_by_sentences: Flags = field(default_factory=lambda: np.zeros(0, np.bool_))

    def beside_composer(self, name: str | None) -> SceneRows:
        """Return the scene with what a composer says kept in any case; None takes it as it is."""
        return self if name is None else replace(self, beside=self.composed[name])


def collect(options: Options, scenes: SceneSet, setting: Setting) -> list[SceneRows]:
    """Return each scene's candidates under a setting that has the shipped bound; annotates what is missing."""
    annotate(options, scenes, (setting,))
    judge_chunk = partial(_judge_chunk, options.out, scenes, setting)
    shown = f"judging {scenes.world} {scenes.split} scenes"
    chunks = run_jobs(judge_chunk, scenes.chunks, options.processes, shown=shown)
    return [rows for chunk in chunks for rows in chunk]


def _judge_chunk(out: Path, scenes: SceneSet, setting: Setting, chunk: range) -> list[SceneRows]:
    images = annotated_chunk(out, scenes, chunk, setting, SHIPPED)
    return [scene_rows(scenes.scene(at), image) for at, image in zip(chunk, images, strict=True)]


def scene_rows(scene: Scene, image: ShardImage) -> SceneRows:
    """Return the candidates of a scene's annotation, each of one mask."""
    truth = SceneImageTruth(scene)
    columns = judged_columns(image)
    candidates = candidates_of(image, lambda expression: expression.kept)
    judged = judge_image(truth, candidates, columns)
    sentences = [said_by_annotators(scene, number) for number in range(len(scene.objects))]
    by_sentences = judge_image(HumanImageTruth(truth.size, truth.masks, sentences), candidates, columns)
    object_of_mask = match_image(truth, candidates).object_of_mask
    said = {name: _composed(image, truth, object_of_mask, config) for name, config in COMPOSERS.items()}
    shared = {each.name: getattr(judged, each.name) for each in fields(judged)}
    return SceneRows(**shared, composed=said, is_right_by_sentences=by_sentences.is_right)


def judged_columns(image: ShardImage) -> dict[str, list[Any]]:
    """Return what `judge_image` reads of an annotated image's expressions."""
    fields_of = [name for name in JUDGED_COLUMNS if name != "count"]
    columns: dict[str, list[Any]] = {name: [getattr(each, name) for each in image.expressions] for name in fields_of}
    return {**columns, "count": [len(each.samples) for each in image.expressions]}


def composed_alone(scene: Scene, image: ShardImage, composer: Composer) -> Sums:
    """Return numerator and denominator of accuracy, yield and coverage of what a composer says, and of nothing else."""
    truth = SceneImageTruth(scene)
    matched = match_image(truth, candidates_of(image, lambda expression: True))
    said = _composed(image, truth, matched.object_of_mask, composer)
    nothing = np.zeros(0, np.bool_)
    num_visible = int(matched.is_visible.sum())
    judged = JudgedImage(Rated((), (), {}), nothing, np.zeros(0, np.int64), len(image.masks), num_visible, beside=said)
    return judged.sums(nothing)


def _composed(
    image: ShardImage, truth: SceneImageTruth, object_of_mask: Mapping[str, int], composer: Composer
) -> AlwaysKept:
    said = composer(image).expressions
    alone = tuple(each for each in said if each.source == SOURCE_COMPOSER and len(each.target_mask_ids) == 1)
    candidates = candidates_of(replace(image, expressions=alone), lambda expression: True)
    verdicts = judge(truth, candidates, object_of_mask)
    confidence = np.array([each.confidence for each in alone], np.float64)
    return AlwaysKept(verdicts.is_right, verdicts.target, confidence)


@dataclass(frozen=True)
class Rule:
    """Keeps what lies within `bounds` when ranked by `weights`; what a composer says beside it is always kept."""

    weights: ConfidenceConfig
    bounds: Bounds
    composer: str | None = None

    def sums(self, scene: SceneRows) -> Sums:
        """Return numerator and denominator of accuracy, yield and coverage."""
        return scene.beside_composer(self.composer).sums(self.bounds.keeps(scene, self.weights))

    def as_json(self) -> dict[str, Any]:
        """Return the bounds."""
        return {**vars(self.bounds), "composer": self.composer}


def by_tau(scene: JudgedImage, tau: float) -> Flags:
    """Return what the paper's filter keeps, (T,) bool."""
    return keeps(KeepRule(tau), scene.rated.scores, scene.rated.groups)


def bootstrap(scenes: Sequence[SceneRows], tau: float, rules: Mapping[str, Rule]) -> ImageBootstrap:
    """Return the figures of each rule over the same resamples of scenes, named `<rule>.<figure>`.

    Args:
        scenes: Test scenes.
        tau: Of the preset's own filter, the rule `preset`; beside it stand `paper`, and `right`: every right candidate.
        rules: By name.
    """

    def sums(scene: SceneRows) -> dict[str, tuple[float, float]]:
        found = {
            "right": scene.sums(scene.is_right),
            "paper": scene.sums(by_tau(scene, PAPER_TAU)),
            "preset": scene.sums(by_tau(scene, tau)),
            **{name: rule.sums(scene) for name, rule in rules.items()},
        }
        return {f"{name}.{key}": pair for name, each in found.items() for key, pair in each.items()}

    return ImageBootstrap([sums(scene) for scene in scenes])


def rule_tree(found: ImageBootstrap, name: str) -> dict[str, Any]:
    """Return a rule's figures as JSON values, each with its interval."""
    return {figure: as_json(found.ratio(f"{name}.{figure}")) for figure in FIGURES}


def step_tree(found: ImageBootstrap, better: str, worse: str) -> dict[str, Any]:
    """Return by how much a rule exceeds another, paired over scenes, as JSON values."""
    return {figure: as_json(found.difference(f"{better}.{figure}", f"{worse}.{figure}")) for figure in FIGURES}
