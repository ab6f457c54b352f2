"""A new domain without annotation: pseudo-labels made there, against human annotation of the old domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from experiments.quality.page import template
from experiments.quality.parts import Options, Part, Result
from experiments.quality.scene_runs import COMPOSING, SceneRun, pseudo_run, training_scenes, true_run
from experiments.quality.segmenters import NUM_SEEDS, NUM_TEST, QUICK_TEST, segmenter, test_run
from experiments.quality.segmenters import settings as segmenter_settings
from experiments.quality.student_arms import seeded, train_arms
from experiments.quality.students import NUM_SCENES, QUICK_SCENES
from pseudoris.schemas.config_layers import config_hash, load_config
from pseudoris.synthworld.scenes import Split

# Other textures, palette, noise, and another mix of categories: no model of `tiny` was trained there.
NEW_WORLD: Final = "shifted"


def run(options: Options) -> Result:
    """Train on each, and ask about test scenes of the new world and of the old."""
    count, test = options.scenes(NUM_SCENES, QUICK_SCENES), options.scenes(NUM_TEST, QUICK_TEST)
    old, new = training_scenes(count), training_scenes(count, NEW_WORLD)
    runs = {
        "old truth": true_run(options, old),
        "old pseudo": pseudo_run(options, old, composing=COMPOSING),
        "new pseudo": pseudo_run(options, new, composing=COMPOSING),
        "new truth": true_run(options, new),
    }
    groups = {name: seeded(options, segmenter(each), num_seeds=NUM_SEEDS) for name, each in runs.items()}
    worlds = {"new": true_run(options, SceneRun(Split.TEST, test, world=NEW_WORLD)), "old": test_run(options)}
    found = {
        world: train_arms(options, groups, val, shown=f"students asked in the {world} world")
        for world, val in worlds.items()
    }
    return {
        "scenes": count,
        "test_scenes": test,
        "world": NEW_WORLD,
        "arms": {world: answered.figures for world, answered in found.items()},
        "gain": found["new"].difference("new pseudo", "old truth"),
        "moved": found["new"].difference("new pseudo", "old pseudo"),
    }


def settings(options: Options) -> Mapping[str, Any]:
    """Return what figures of segmenters depend on, and the method of the composed annotation."""
    return {**segmenter_settings(options), "composed": config_hash(load_config("tiny", None, [COMPOSING]))[:16]}


PART = Part("domains", run, template("domains"), settings=settings, is_appendix=True)
