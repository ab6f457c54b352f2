from dataclasses import replace

import pytest
from synthworld.judging import count_decoders, count_kept, count_masks, match_scene

from schemas.shard import CaptionSample, ExpressionRecord
from synthworld.attributes import Attributes
from synthworld.scenes import Scene, SceneObject
from synthworld.shards import scene_image, scene_shard


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
    return match_scene(TRUTH, replace(row, expressions=expressions))


def test_true_masks_reach_full_recall():
    matched, reached = annotated()
    counts = count_masks(TRUTH, matched, reached).sums
    assert counts["mask_recall_75"] == (3.0, 3.0)
    assert counts["proposals_per_object"] == (3.0, 3.0)


def test_a_missing_mask_costs_recall_and_a_foreign_one_is_no_object():
    row = scene_shard([TRUTH], with_true_masks=True).images[0]
    other = scene_shard([scene_image(Scene(0, 1, (item("square", "red", 96.0),)))], with_true_masks=True).images[0]
    half_hidden = replace(other.masks[0], mask_id="foreign")
    matched, reached = match_scene(TRUTH, replace(row, masks=(row.masks[0], half_hidden)))
    assert count_masks(TRUTH, matched, reached).sums["mask_recall_75"][1] == 3.0
    assert reached[2] == 0.0


def test_each_draw_counts_for_its_decoder():
    two = (sample("beam"), sample("top_k"), sample("top_p"))
    matched, _ = annotated((0, "an orange circle", {"samples": two}), (1, "a photo of a circle", {}))
    counts = count_decoders(matched, sampling="distinctive").sums
    assert counts["accuracy_beam"] == (1.0, 1.0)
    assert counts["accuracy_distinctive"] == (2.0, 3.0)


@pytest.mark.parametrize("text", ["a circle", "a blue circle", "an orange", "a green circle"])
def test_ambiguous_untrue_and_unparsable_captions_are_wrong(text):
    matched, _ = annotated((0, text, {}))
    assert count_kept(matched).sums["accuracy_filtered"] == (0.0, 1.0)


def test_only_what_is_kept_counts_and_a_threshold_may_be_moved():
    matched, _ = annotated(
        (0, "an orange circle", {"distinctiveness": 1.5}),
        (2, "a star", {"distinctiveness": 1.05}),
        (1, "a circle", {"distinctiveness": 0.9, "kept": False}),
    )
    assert count_kept(matched).sums["accuracy_filtered"] == (2.0, 2.0)
    assert count_kept(matched).sums["yield_filtered"] == (2.0, 3.0)
    assert count_kept(matched, tau=1.2).sums["accuracy_filtered"] == (1.0, 1.0)


def test_coverage_counts_objects_with_a_right_expression():
    matched, _ = annotated((0, "an orange circle", {}), (0, "the orange circle", {}), (1, "a circle", {}))
    assert count_kept(matched).sums["coverage_filtered"] == (1.0, 3.0)


def test_held_out_pairs_are_counted_apart():
    matched, _ = annotated((0, "an orange circle", {}), (1, "a blue circle", {}))
    counts = count_kept(matched).sums
    total = counts.get("accuracy_filtered_seen", (0, 0))[1] + counts.get("accuracy_filtered_held_out", (0, 0))[1]
    assert total == counts["accuracy_filtered"][1] == 2.0
