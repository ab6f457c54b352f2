"""Scenes are counted under the names of the model card; the command's JSON and its table hold every figure."""

import json
from dataclasses import replace

import pytest
import typer
from typer.testing import CliRunner

from experiments.oracle import (
    HEADLINE,
    TRUTH_SUFFIX,
    count_at,
    count_scene,
    main,
)
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord
from pseudoris.synthworld.attributes import Attributes
from pseudoris.synthworld.scenes import Scene, SceneObject
from recipes.scene_shards import scene_image, scene_shard


def item(category, colour, x):
    return SceneObject(Attributes(category, colour, "plain", "large"), (x, 96.0), 24.0, 0.0, (0, 0, 0))


# A red circle (not held out), a blue circle, and a red star.
SCENE = Scene(
    0, 4_000_000, (item("circle", "orange", 40.0), item("circle", "blue", 96.0), item("star", "orange", 150.0))
)
TRUTH = scene_image(SCENE)


def sample(decoder="top_p"):
    return CaptionSample("masked", decoder, None, 0.5 if decoder == "top_p" else None, -1.0)


def expression(mask, text, *, samples=None, kept=True, distinctiveness=2.0):
    return ExpressionRecord((mask.mask_id,), text, samples or (sample(),), kept=kept, distinctiveness=distinctiveness)


def annotated(*said):
    """The scene with its true masks and the given (object, text, changes)."""
    row = scene_shard([TRUTH], with_true_masks=True).images[0]
    expressions = tuple(expression(row.masks[number], text, **changes) for number, text, changes in said)
    return replace(row, expressions=expressions)


def test_true_masks_reach_full_recall():
    counts = count_scene(TRUTH, annotated())
    assert counts["mask_recall_75"] == counts["mask_recall_50"] == (3.0, 3.0)
    assert counts["proposals_per_object"] == (3.0, 3.0)


@pytest.mark.parametrize("text", ["a circle", "a blue circle", "an orange", "a green circle"])
def test_ambiguous_untrue_and_unparsable_captions_are_wrong(text):
    assert count_scene(TRUTH, annotated((0, text, {})))["accuracy_filtered"] == (0.0, 1.0)


def test_only_what_is_kept_counts_and_a_threshold_may_be_moved():
    image = annotated(
        (0, "an orange circle", {"distinctiveness": 1.5}),
        (2, "a star", {"distinctiveness": 1.05}),
        (1, "a circle", {"distinctiveness": 0.9, "kept": False}),
        (1, "the blue circle", {"distinctiveness": None}),
    )
    counts = count_scene(TRUTH, image)
    assert counts["accuracy_filtered"] == (3.0, 3.0)
    assert counts["yield_filtered"] == (3.0, 3.0)
    assert count_at(TRUTH, image, 1.2) == {
        "accuracy_filtered@1.2": (2.0, 2.0),
        "yield_filtered@1.2": (2.0, 3.0),
    }


@pytest.mark.slow
def test_the_command_measures_real_scenes_and_writes_every_figure(tmp_path):
    app = typer.Typer()
    app.command()(main)
    arguments = ["--scenes", "1", "--processes", "1", "--split", "development", "--tau", "1.5", "--json"]
    outcome = CliRunner().invoke(app, [*arguments, str(tmp_path / "figures.json")])
    assert outcome.exit_code == 0, outcome.output
    report = json.loads((tmp_path / "figures.json").read_text())
    assert {name + suffix for name in HEADLINE for suffix in ("", TRUTH_SUFFIX)} <= report.keys()
    assert report["mask_recall_75" + TRUTH_SUFFIX] == 1.0
    assert report["seconds_per_image"] > 0
    assert report["yield_filtered@1.5"] <= report["yield_filtered"]
    assert "1 development scenes" in outcome.output
