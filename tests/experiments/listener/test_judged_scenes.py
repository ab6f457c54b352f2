"""A scene's candidates have their scores, and the oracle's word on each."""

from dataclasses import replace

import numpy as np

from experiments.listener.judged_scenes import scene_rows
from pseudoris.schemas.fitted import CONFIDENCE_COLUMNS
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord
from pseudoris.synthworld.attributes import Attributes
from pseudoris.synthworld.scenes import Scene, SceneObject
from recipes.scene_shards import scene_image, scene_shard


def item(category, colour, x):
    return SceneObject(Attributes(category, colour, "plain", "large"), (x, 96.0), 24.0, 0.0, (0, 0, 0))


SCENE = Scene(0, 0, (item("circle", "orange", 40.0), item("circle", "blue", 96.0), item("star", "orange", 150.0)))
HEARD = {"caption_score": -1.0, "listener": 0.5, "truth": -0.3}
DRAW = CaptionSample("masked", "top_p", None, 0.5, -1.0)


def annotated(*said):
    """The scene with its true masks and the given (object, text, changes)."""
    image = scene_shard([scene_image(SCENE)], with_true_masks=True).images[0]
    expressions = (
        ExpressionRecord((image.masks[number].mask_id,), text, **{"samples": (DRAW,), **HEARD, **changes})
        for number, text, changes in said
    )
    return replace(image, expressions=tuple(expressions))


def test_each_candidate_has_its_scores_whether_it_is_right_and_what_it_was_said_of():
    scores = {"caption_score": -2.0, "listener": 0.9, "truth": -0.5, "uniqueness": 1.2, "correctness": 0.7}
    rows = scene_rows(
        SCENE,
        annotated(
            (2, "a star", {**scores, "distinctiveness": 1.4, "grounding_share": 0.8, "samples": (DRAW, DRAW)}),
            (0, "a circle", {"kept": True}),
        ),
    )
    assert rows.rated.texts == ["a star", "a circle"]
    assert list(rows.rated.scores) == list(CONFIDENCE_COLUMNS)
    assert {name: column[0] for name, column in rows.rated.scores.items()} == {
        **scores,
        "distinctiveness": 1.4,
        "count": 2.0,
        "grounding_share": 0.8,
    }
    # What was not scored, as of a lone mask, is NaN and no zero; draws are counted of any.
    assert np.isnan([rows.rated.scores[name][1] for name in CONFIDENCE_COLUMNS if name not in (*HEARD, "count")]).all()
    assert rows.rated.scores["count"][1] == 1.0
    assert rows.is_right.tolist() == [True, False]
    assert rows.targets.tolist() == [2, 0]


def test_masks_and_visible_objects_are_counted_though_a_mask_is_missing():
    image = annotated((0, "an orange circle", {}))
    rows = scene_rows(SCENE, replace(image, masks=image.masks[:2]))
    assert (rows.num_masks, rows.num_visible) == (2, 3)
    assert rows.rated.groups == [image.masks[0].mask_id]
