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

from evidence.experiments.oracle import candidates_of, judged
from evidence.experiments.process_pool import run_jobs
from evidence.experiments.quality.annotated_scenes import (
    PAPER_TAU,
    SHIPPED,
    SceneSet,
    Setting,
    annotate,
    annotated_chunk,
)
from evidence.experiments.quality.markdown_cells import paired
from evidence.experiments.quality.parts import Options
from evidence.experiments.quality.scene_runs import said_by_annotators
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.estimate import ImageBootstrap, Sums
from pseudoris.schemas.fitted import ConfidenceConfig, Floats, WeightLine, line_weights
from pseudoris.schemas.keep_rule import Flags, Ints, KeepRule, keeps
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
    fit_line,
    judge_image,
)
from pseudoris.training.evaluation.human_truth import HumanImageTruth
from pseudoris.training.evaluation.truth import ImageTruth, MatchedMasks
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
_EXAMPLE: Final = Path(__file__).parents[3] / "examples" / "listener-composer.yaml"
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
    by_truth = judged_image(truth, image)
    sentences = [said_by_annotators(scene, number) for number in range(len(scene.objects))]
    by_sentences = judged_image(HumanImageTruth(truth.size, truth.masks, sentences), image)
    said = {name: _composed(truth, image, composer)[1] for name, composer in COMPOSERS.items()}
    shared = {each.name: getattr(by_truth, each.name) for each in fields(by_truth)}
    return SceneRows(**shared, composed=said, is_right_by_sentences=by_sentences.is_right)


def judged_image(truth: ImageTruth, image: ShardImage) -> JudgedImage:
    """Return the candidates of an annotated image with their scores and a truth's verdicts."""
    fields_of = [name for name in JUDGED_COLUMNS if name != "count"]
    columns: dict[str, list[Any]] = {name: [getattr(each, name) for each in image.expressions] for name in fields_of}
    columns["count"] = [len(each.samples) for each in image.expressions]
    return judge_image(truth, candidates_of(image, lambda each: each.kept), columns)


def _composed(
    truth: SceneImageTruth, image: ShardImage, composer: Composer, num_targets: int = 1
) -> tuple[MatchedMasks, AlwaysKept]:
    """Which mask is which object, and what a composer says of so many masks each."""
    said = [each for each in composer(image).expressions if each.source == SOURCE_COMPOSER]
    said = [each for each in said if len(each.target_mask_ids) == num_targets]
    matched, verdicts = judged(truth, image, said)
    confidence = np.array([each.confidence for each in said], np.float64)
    return matched, AlwaysKept(verdicts.is_right, verdicts.target, confidence)


_BINS: Final = 10
_NUM_VERDICTS: Final = 200
# Draws of the verdicts, each with a line of its own; their errors are averaged.
_DRAWS: Final = 50


@dataclass(frozen=True, eq=False)
class Composed:
    """What was composed of so many masks each, over all scenes: E expressions of N scenes.

    Attributes:
        scene: (E,) int64. `target` (E,) int64: the mask's object, -1 for none. `confidence` (E,) float64.
        sizes: (N, 2) float64, masks and visible objects of each scene.
    """

    scene: Ints
    target: Ints
    is_right: Flags
    confidence: Floats
    sizes: Floats

    @classmethod
    def of(
        cls, truths: Sequence[SceneImageTruth], images: Sequence[ShardImage], composer: Composer, num_targets: int = 1
    ) -> Composed:
        """Compose for annotated scenes; with no target what is in no mask."""
        found = [_composed(*each, composer, num_targets) for each in zip(truths, images, strict=True)]
        said = [each for _, each in found]
        visible = [each.is_visible.sum() for each, _ in found]
        return cls(
            np.repeat(np.arange(len(said)), [len(each.is_right) for each in said]),
            np.concatenate([each.targets for each in said]),
            np.concatenate([each.is_right for each in said]),
            np.concatenate([each.confidence for each in said]),
            np.array([[len(image.masks) for image in images], visible], np.float64).T,
        )

    def sums(self, bound: float = 0.0) -> list[Sums]:
        """Return numerator and denominator of accuracy, yield and coverage of what is above a bound, scene by scene."""
        found: list[Sums] = []
        for number, (masks, visible) in enumerate(self.sizes.tolist()):
            rows = (self.scene == number) & (self.confidence > bound)
            right = rows & self.is_right
            said, covered = float(rows.sum()), float(len(np.unique(self.target[right])))
            found.append(
                {"accuracy": (float(right.sum()), said), "yield": (said, masks), "coverage": (covered, visible)}
            )
        return found

    def bound_at(self, number: int) -> float:
        """Return the confidence that so many expressions are above."""
        falling = np.sort(self.confidence)[::-1]
        return float(falling[number]) if number < len(falling) else 0.0

    def calibration_error(self, line: WeightLine | None = None) -> float:
        """Return the expected calibration error in ten bins of equal width, of the confidence or of a line of it."""
        stated = line_weights(line, self.confidence) if line else self.confidence
        bins = np.minimum((stated * _BINS).astype(np.int64), _BINS - 1)
        gaps = [stated[bins == each].sum() - self.is_right[bins == each].sum() for each in range(_BINS)]
        return float(np.abs(gaps).sum() / max(len(stated), 1))

    def after_verdicts(self) -> float:
        """Return the expected calibration error of a line fitted to 200 simulated verdicts, the mean of 50 draws."""
        rng, errors = np.random.default_rng(0), []
        for _ in range(_DRAWS):
            rows = rng.permutation(len(self.scene))[:_NUM_VERDICTS]
            line = fit_line(self.confidence[rows], self.is_right[rows].astype(np.float64))
            errors.append(self.calibration_error(line))
        return float(np.mean(errors))


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
    rules_of = {
        "right": lambda scene: scene.sums(scene.is_right),
        "paper": lambda scene: scene.sums(by_tau(scene, PAPER_TAU)),
        "preset": lambda scene: scene.sums(by_tau(scene, tau)),
        **{name: rule.sums for name, rule in rules.items()},
    }
    return paired({name: [sums(scene) for scene in scenes] for name, sums in rules_of.items()})
