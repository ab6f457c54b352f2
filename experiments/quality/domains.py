"""A new domain without annotation: pseudo-labels made there, against human annotation of the old domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from experiments.quality.markdown_cells import markdown_table
from experiments.quality.parts import Options, Part, Result
from experiments.quality.scene_runs import COMPOSING, SceneRun, pseudo_run, training_scenes, true_run
from experiments.quality.segmenters import NUM_SEEDS, NUM_TEST, QUICK_TEST, segmenter, test_run
from experiments.quality.segmenters import settings as segmenter_settings
from experiments.quality.student_arms import mean_and_deviation, said_difference, seeded, train_arms
from experiments.quality.students import NUM_SCENES, QUICK_SCENES
from pseudoris.schemas.config_layers import config_hash, load_config
from pseudoris.synthworld.scenes import Split

# Other textures, palette, noise, and another mix of categories: no model of `tiny` was trained there.
NEW_WORLD: Final = "shifted"
_ROWS: Final = {
    "old truth": "simulated annotation of the old world",
    "old pseudo": "pseudo-annotation of the old world",
    "new pseudo": "pseudo-annotation of the new world",
    "new truth": "simulated annotation of the new world (what a new campaign would buy)",
}


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
    groups = {name: seeded(options, segmenter(runs[name]), num_seeds=NUM_SEEDS) for name in _ROWS}
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


def section(result: Result) -> str:
    """Return the part's Markdown."""
    new, old = result["arms"]["new"], result["arms"]["old"]
    rows = [
        [
            title,
            *(mean_and_deviation(new[name], figure) for figure in ("miou", "oiou", "p50")),
            mean_and_deviation(old[name]),
        ]
        for name, title in _ROWS.items()
    ]
    intro = (
        f"Captioner, SAM and CLIP know the old world alone. {result['scenes']} training scenes each, "
        f"{result['test_scenes']} test scenes of the new world `{result['world']}`: other textures, palette, noise and "
        "mix of categories. Pseudo-annotation is `tiny`'s, with the composer. "
        "Such labels made in the new world, in mIoU of its test scenes, against simulated annotation of the old world: "
        f"{said_difference(result['gain'])}; against such labels of the old one: {said_difference(result['moved'])}."
    )
    header = ["learnt from", "mIoU", "oIoU", "P@0.5", "mIoU in the old world"]
    return "\n\n".join(["## A new domain", intro, markdown_table(header, rows)])


def settings(options: Options) -> Mapping[str, Any]:
    """Return what figures of segmenters depend on, and the method of the composed annotation."""
    return {**segmenter_settings(options), "composed": config_hash(load_config("tiny", None, [COMPOSING]))[:16]}


PART = Part("domains", run, section, settings=settings, is_appendix=True)
