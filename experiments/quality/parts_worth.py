"""What each part of the method is worth with four captioners, and to a student of a captioner that nothing knows.

What was expected was written before the first result: experiments/predictions.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import yaml

from experiments.composing.any_captioner import CAPTIONERS, compose, fitted_to, setting_of
from experiments.listener.judged_scenes import FEATURE_SETS, by_tau, judged_image
from experiments.listener.listener_gain import COMPARED
from experiments.quality.annotated_scenes import SceneSet, annotated_scenes
from experiments.quality.markdown_cells import paired, ratios
from experiments.quality.page import template
from experiments.quality.parts import Options, Part, Result
from experiments.quality.scene_runs import pseudo_run, training_scenes
from experiments.quality.student_arms import Arm, by_kind, num_steps
from experiments.quality.students import (
    BEST_PRESET,
    NUM_SCENES,
    OF_ONE_MASK,
    QUICK_SCENES,
    REWORDED,
    annotation_figures,
    asked_fresh,
)
from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.fitted import PosteriorConfig
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.synthworld.scenes import Split
from pseudoris.training.calibration.confidence_fit import calibrate
from pseudoris.training.calibration.run_units import corrected
from pseudoris.workers.checkpoints.weight_files import weights_digest

FILTER, LISTENER, COMPOSER, NO_LABELS, VERDICTS = "filter", "listener", "composer", "no labels", "verdicts"
TITLES: Final[Mapping[str, str]] = {
    FILTER: "the paper's filter",
    LISTENER: "+ listener",
    COMPOSER: "+ composer",
    NO_LABELS: "+ no labels",
    VERDICTS: "+ 200 verdicts",
}
WORLDS: Final = ("default", "shifted", "fourth")
# Nothing else asks scenes from here on, and of the second number students.
FIRST, FIRST_OF_STUDENTS = 96_000, 98_000
NUM_JUDGED: Final = 150
UNKNOWN: Final = "coca_clauses"


def run(options: Options) -> Result:
    """Judge each part on scenes of each world; train students of the captioner that is left out."""
    tables = {name: _by_world(options, name) for name in CAPTIONERS}
    return {"scenes": options.scenes(NUM_JUDGED, 20), "tables": tables, **_students(options)}


def _by_world(options: Options, captioner: str) -> dict[str, Any]:
    """Return the figures of each of `TITLES` by world; `no labels` has weights that were fitted to the other three."""
    known = SceneSet(Split.DEVELOPMENT, options.scenes(100, 20))
    images = annotated_scenes(options, known, setting_of(captioner))
    judged = [judged_image(SceneImageTruth(scene), image) for scene, image in zip(known.all(), images, strict=True)]
    listener = calibrate(judged, FEATURE_SETS["all"], coverage=COMPARED[0], least_yield=COMPARED[1])
    own, others = fitted_to(options, [captioner], "probability"), _without_labels(options, captioner)
    found: dict[str, Any] = {}
    tau = load_config("tiny").filtering.tau
    for world in WORLDS:
        asked = SceneSet(Split.TEST, options.scenes(NUM_JUDGED, 20), world, first=FIRST)
        images = annotated_scenes(options, asked, setting_of(captioner))
        truths = [SceneImageTruth(scene) for scene in asked.all()]
        rows = [judged_image(*each) for each in zip(truths, images, strict=True)]
        without = compose(truths, images, corrected(others, images))
        parts = {
            FILTER: [each.sums(by_tau(each, tau)) for each in rows],
            LISTENER: [each.sums(listener.reached.bounds.keeps(each, listener.weights)) for each in rows],
            COMPOSER: compose(truths, images, own).sums(),
            NO_LABELS: without.sums(),
            VERDICTS: without.after_verdicts()[1],
        }
        bootstrap = paired(parts)
        found[world] = {name: ratios(bootstrap, name) for name in parts}
    return found


def _without_labels(options: Options, captioner: str) -> PosteriorConfig:
    return fitted_to(options, [each for each in CAPTIONERS if each != captioner], "probability")


def _students(options: Options) -> dict[str, Any]:
    """Return mIoU by what a student learnt from: the filter's captions, and what is composed of the same captioner."""
    scenes = training_scenes(options.scenes(NUM_SCENES, QUICK_SCENES))
    captions = f"captions.weights={{uri: {CAPTIONERS[UNKNOWN]}}}"
    weights = options.out / f"{UNKNOWN}.fitted.yaml"
    posterior = {"posterior": _without_labels(options, UNKNOWN).model_dump(exclude_none=True)}
    weights.write_text(yaml.safe_dump(posterior), encoding="utf-8")
    # What is composed alone: the keep rule of the preset is of its own models.
    fitted = (captions, f"filtering.fitted={{uri: {weights.resolve()}}}", 'filtering.keep=["correctness > 1"]')
    arms = {
        FILTER: Arm((pseudo_run(options, scenes, filtering=(captions,)),)),
        NO_LABELS: Arm((pseudo_run(options, scenes, preset=BEST_PRESET, composing=OF_ONE_MASK, filtering=fitted),)),
    }
    arms = {name: replace(arm, assignments=REWORDED) for name, arm in arms.items()}
    found, asked = asked_fresh(options, arms, FIRST_OF_STUDENTS, shown=f"students of {UNKNOWN}")
    return {
        "training_scenes": asked["scenes"],
        "test_scenes": asked["test_scenes"],
        "seeds": asked["seeds"],
        "students": {name: by_kind(found, name) for name in arms},
        "annotation": {name: annotation_figures(name, arm) for name, arm in arms.items()},
        "difference": found.difference(NO_LABELS, FILTER),
    }


def settings(options: Options) -> Mapping[str, Any]:
    """Return what the figures depend on beside the method."""
    return {
        "captioners": {name: weights_digest(WeightsConfig(uri=uri))[:16] for name, uri in CAPTIONERS.items()},
        "towers": weights_digest(Arm(()).config().towers.weights)[:16],
        "first": [FIRST, FIRST_OF_STUDENTS],
        "steps": num_steps(options),
    }


PART = Part("parts_worth", run, template("parts_worth", lambda _: {"rows": TITLES}), settings=settings)
