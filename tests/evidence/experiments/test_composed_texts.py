"""Experiments on composed texts: settings of photographs, and a captioner that comes by plug-in."""

from collections import Counter
from dataclasses import replace

from evidence.experiments.composing.any_captioner import setting_of
from evidence.experiments.composing.photograph_settings import AS_IS, composers, sums_of
from evidence.experiments.composing.word_captioner import DRAWS
from evidence.recipes.scene_shards import scene_image, scene_shard
from pseudoris.schemas.shard import SOURCE_COMPOSER, ExpressionRecord
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.synthworld.scenes import Scene, Split, make_scene
from pseudoris.workers.stages import STAGES
from tests.builders.scene_runs import plain_object as item
from tests.builders.scene_runs import with_true_masks

SCENE = Scene(0, 0, (item("circle", "blue", 40.0), item("star", "red", 130.0)))


def test_arms_are_judged_by_what_is_kept_of_one_mask_and_by_all_that_is_composed_of_none():
    composed = {"samples": (), "source": SOURCE_COMPOSER, "kept": True}
    said = [(0, "the circle", composed), (1, "the blue star", composed), (1, "a moon", {**composed, "kept": False})]
    image = with_true_masks(SCENE, *said)
    none = ExpressionRecord((), "the red circle", (), "none", source=SOURCE_COMPOSER)
    image = replace(image, expressions=(*image.expressions, none))
    found = sums_of(SceneImageTruth(SCENE), image)
    assert found["accuracy"] == (1.0, 2.0)
    assert found["absences right"] == (1.0, 1.0)
    assert found["absences a mask"] == (1.0, 2.0)


def test_the_settings_of_photographs_are_those_of_the_preset_and_the_preset_is_as_it_is():
    arms = composers()
    assert arms[AS_IS].config.places == "drawings"
    assert arms["has_colours"].config == arms[AS_IS].config.model_copy(update={"has_colours": True})
    assert arms["… and weights"].posterior.has_kinds


def test_a_captioner_by_plug_in_draws_the_same_of_a_mask_whatever_stands_beside_it():
    stage = STAGES[1].build(setting_of("words").config())
    scenes = [make_scene(Split.DEVELOPMENT, number) for number in (0, 1)]
    shard = scene_shard([scene_image(scene) for scene in scenes], with_true_masks=True)
    both, alone = stage(shard).images, stage(shard.with_images(shard.images[1:])).images
    assert both[1].expressions == alone[0].expressions
    drawn = Counter(each.target_mask_ids for each in both[0].expressions for _ in each.samples)
    assert drawn == {(mask.mask_id,): 2 * DRAWS for mask in both[0].masks}
