"""The same steps, learnt by a student that draws masks of its own: what the quality of masks costs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

from experiments.quality.page import template
from experiments.quality.parts import Options, Part, Result
from experiments.quality.scene_runs import SceneRun, pseudo_run, training_scenes, true_run
from experiments.quality.student_arms import Arm, num_steps, paper_steps, seeded, train_arms
from experiments.quality.students import NUM_SCENES, QUICK_SCENES
from pseudoris.synthworld.scenes import Split
from pseudoris.workers.checkpoints.weight_files import weights_digest

NUM_TEST, QUICK_TEST = 150, 20
NUM_SEEDS: Final = 3
_STEPS: Final = ("naive", "distinctive", "filtered", "truth")


def run(options: Options) -> Result:
    """Train on each, and ask all the same."""
    scenes = training_scenes(options.scenes(NUM_SCENES, QUICK_SCENES))
    arms = paper_steps(pseudo_run(options, scenes), kind="segmenter")
    arms["truth"] = segmenter(true_run(options, scenes))
    groups = {name: seeded(options, arm, num_seeds=NUM_SEEDS) for name, arm in arms.items()}
    found = train_arms(options, groups, test_run(options), shown="segmenters of each step")
    return {
        "scenes": scenes.count,
        "test_scenes": options.scenes(NUM_TEST, QUICK_TEST),
        "seeds": len(groups["truth"]),
        "arms": found.figures,
        "differences": {more: found.difference(more, less) for less, more in pairwise(_STEPS)},
    }


def segmenter(run: str) -> Arm:
    """Return the arm of a segmenter on a run."""
    return Arm((run,), kind="segmenter")


def test_run(options: Options) -> str:
    """Return the test scenes of the captioner's own world, as simulated annotators describe them."""
    return true_run(options, SceneRun(Split.TEST, options.scenes(NUM_TEST, QUICK_TEST)))


def settings(options: Options) -> Mapping[str, Any]:
    """Return what figures of segmenters depend on beside the method: their frozen towers, and how much they see."""
    return {
        "towers": weights_digest(segmenter("").config().towers.weights)[:16],
        "steps": num_steps(options),
        "scenes": options.scenes(NUM_SCENES, QUICK_SCENES),
        "test_scenes": options.scenes(NUM_TEST, QUICK_TEST),
    }


PART = Part("segmenters", run, template("segmenters"), settings=settings, is_appendix=True)
